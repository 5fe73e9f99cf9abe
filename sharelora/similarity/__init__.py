"""How similar the layers of a model are: what each makes of the last token of a text, compared over a sample."""

from sharelora.similarity.result import FILE, MEASURES, Similarity, read_similarity

__all__ = ["FILE", "MEASURES", "Similarity", "read_similarity"]
