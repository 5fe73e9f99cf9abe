"""The adapted linear map: the papers' formula (`reference`) and a fast equivalent (`fused`)."""
