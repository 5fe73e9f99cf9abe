"""What the GLUE job can be told beyond sharing and the Trainer's own settings; names and defaults of LoRA's script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharelora.flags.fields import help_field
from sharelora.support.errors import UserError
from sharelora.training.glue.bottleneck import KINDS
from sharelora.training.glue.methods import METHODS


@dataclass
class ModelArguments:
    """The encoder, and an adapter that exists already."""

    model_name_or_path: str | None = help_field(None, "folder or hub id of the encoder")
    tokenizer_name: str | None = help_field(None, "folder or hub id of another tokenizer than the model's own")
    model_revision: str | None = help_field(None, "branch, tag or commit of the model on the hub")
    trust_remote_code: bool = help_field(False, "run code that comes with the model")
    token: str | None = help_field(None, "hub token, or `true` for the one that `hf auth login` stored")
    cache_dir: str | None = help_field(None, "where models of the hub are kept")
    attn_implementation: str | None = help_field(None, "sdpa, eager or flash_attention_2; by default the model's own")
    lora_path: str | None = help_field(
        None,
        "an adapter to start from, or without --do_train to evaluate: a folder that this command or PEFT wrote, or a "
        "flat loralib file (its alpha is --lora_alpha)",
    )
    new_head: bool = help_field(False, "start from a new head, where the adapter's or model's is of another task")
    cls_dropout: float | None = help_field(None, "dropout in front of the head; by default the model's own")

    @property
    def hub_token(self) -> str | bool | None:
        """The token as the hub's library takes it."""
        return {"true": True, "false": False, "none": None}.get((self.token or "none").lower(), self.token)


@dataclass
class DataArguments:
    """The task and its rows."""

    task_name: str | None = help_field(None, "cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb or wnli; or give own files")
    train_file: str | None = help_field(None, "own rows (csv, json) with text and a column `label`, to learn")
    validation_file: str | None = help_field(None, "own rows to be evaluated on")
    test_file: str | None = help_field(None, "own rows to be predicted")
    max_seq_length: int = help_field(128, "most tokens of a row; the rest is cut off, which is said")
    pad_to_max_length: bool = help_field(False, "pad every row to that length, not each batch to its longest row")
    max_train_samples: int | None = help_field(None, "use the first N training rows")
    max_eval_samples: int | None = help_field(None, "use the first N rows of each evaluation split")
    max_predict_samples: int | None = help_field(None, "use the first N rows of each test split")
    held_out: float = help_field(
        0.1, "part of the training rows (below 1), or how many, that the epoch is chosen on; 0 chooses none"
    )
    held_out_seed: int = help_field(0, "which rows these are; the same for every --seed")


@dataclass
class MethodArguments:
    """What is trained."""

    method: str | None = help_field(None, f"one of {', '.join(METHODS)}; by default the sharing flags say it")
    apply_lora: bool | None = help_field(None, "LoRA's switch: the same as --method lora, or what --share says")
    apply_adapter: bool | None = help_field(None, "LoRA's switch: the same as --method with the --adapter_type")
    adapter_type: Literal["houlsby", "pfeiffer", "parallel"] = help_field("houlsby", "with --apply_adapter")
    adapter_size: int = help_field(64, f"width of {', '.join(KINDS)} adapters")
    apply_bitfit: bool | None = help_field(None, "LoRA's switch: the same as --method bitfit")
    prefix_length: int = help_field(20, "keys and values of --method prefix in each layer")
    reg_loss_wgt: float = help_field(0.0, "R-drop: weight of the divergence between two passes over each batch")
    masking_prob: float = help_field(0.0, "Cutoff: part of the tokens that are unknown in R-drop's second pass")
    selection_metric: str | None = help_field(None, "what the epoch is chosen by: a metric of the task, or loss")
    save_epoch: Literal["selected", "last"] = help_field("selected", "which epoch's weights are kept")
    use_deterministic_algorithms: bool = help_field(False, "refuse operations whose result may differ between runs")

    def __post_init__(self) -> None:
        for name in ("adapter_size", "prefix_length"):
            if getattr(self, name) < 1:
                raise UserError(f"found {name} {getattr(self, name)}; need at least 1; change --{name}")
        if not (0 <= self.masking_prob < 1) or self.reg_loss_wgt < 0:
            raise UserError(
                f"found reg_loss_wgt {self.reg_loss_wgt:g} and masking_prob {self.masking_prob:g}; need a weight of at "
                "least 0 and a probability from 0 to below 1; change them"
            )
        if self.masking_prob and not self.reg_loss_wgt:
            raise UserError("found --masking_prob without --reg_loss_wgt; Cutoff masks R-drop's second pass; add it")
