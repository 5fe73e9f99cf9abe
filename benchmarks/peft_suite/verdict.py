"""What a run says about a way to share: of the tests that pass with LoRA, which pass, are refused, or fail."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.peft_suite.session import Outcome

PASSED, NAMED, NATURE, FAILED = "passed", "refused by name", "refused by nature", "failed"
KINDS = (PASSED, NAMED, NATURE, FAILED)
# A UserError is a ValueError; PEFT itself refuses with the latter what the tuner tells it that it cannot.
REFUSALS = ("UserError", "NoModulesError", "ValueError")


@dataclass(frozen=True)
class Reason:
    """A refusal that is meant.

    Attributes:
        kind: by name: a variant of LoRA that is not supported; by nature: what cannot share.
        message: pattern of the message; its first group, if it has one, is the label.
        label: for the table.
        test: pattern of the name of the only tests that it is for; these may end with an error of any class.
    """

    kind: str
    message: str
    label: str = ""
    test: str = ""


LAYERS_ALONE = "layers without the tuner that owns the bank"
NAMES, CLASSES = "names of parameters, which are the bank's", "names of classes"
WORDS = "other words of the same refusal"
TYPES, PATTERN = "an error of types that cannot occur", "layers_pattern alone, which has a meaning of its own"
REASONS = (
    Reason(NAMED, r"([\w-]+) does not go with ShareLoRA"),
    Reason(NAMED, r"(init_lora_weights='\w+') is not supported"),
    Reason(NAMED, r"(LoRA-FA) needs an A and a B of its own"),
    Reason(NAMED, r"(reduce_intruder_dimension) does not go with"),
    Reason(NAMED, r"need a linear layer, an embedding, a convolution or MultiheadAttention", "modules of other kinds"),
    Reason(NAMED, r"need the weights as safetensors|a pickle, which ShareLoRA does not load", "weights as a pickle"),
    Reason(NATURE, r"shares no [AB]: no two", "no two matrices of the model have one shape"),
    Reason(NATURE, r"computes A and B of each layer for each other", "an initialisation that fits A and B to a layer"),
    Reason(NATURE, r"for linear layers, which", "an initialisation of linear layers, for other layers"),
    Reason(NATURE, r"share matrices and cannot be combined", "a combination of adapters that share"),
    Reason(NATURE, r"gives .* another lora_[AB]/", "a combination that makes A and B of each layer for each other"),
    Reason(NATURE, r"`inject_adapter_in_model` does not support", LAYERS_ALONE),
    Reason(NAMED, r"modules .* match nothing in the model", "a name in target_modules that matches nothing"),
    Reason(NAMED, r"target_parameters .* match no parameter", "a name in target_parameters that matches nothing"),
    Reason(NAMED, r"is not the file that was saved", "weights that were edited after they were saved"),
    # PEFT refuses these, too, and its tests look for its own words.
    Reason(NAMED, r"query, key and value have different widths", WORDS, "::test_mha_with_separate_qkv_embed_raises$"),
    Reason(NAMED, r"PEFT has no DoRA for MultiheadAttention", WORDS, "::test_mha_with_dora_raises$"),
    Reason(NAMED, r"has rank 10; give a target_rank of 10", WORDS, "::test_prepare_.*_lower_rank_padding_raises$"),
    Reason(NAMED, r"rank \d+ for \w+, a convolution of 2 groups", WORDS, r"not_divisible(_by_groups\[.*\]|_raises)$"),
    # The bank has a name for each matrix, and a layer may have none of its own. What else the tests say holds.
    Reason(NATURE, r"to require gradients, got \[.*'base_model\.lora_bank\.", NAMES, "TestRequiresGrad::"),
    Reason(NATURE, r"lora_bank\.default", NAMES, "::test_prefixes_select_correct_state_dict_keys$"),
    Reason(NATURE, r"/embedding/-/|dding/-/", NAMES, "::test_lora_plus_embedding_lr$"),
    Reason(NATURE, r"0 == \(\(2 \* 2\) \* 2\)", NAMES, "::test_target_multiple_parameters_on_same_module$"),
    Reason(NATURE, r"lora_bank\.default", NAMES, "::test_lora_mica_freezes_B_when_switching_adapters$"),
    # They take one matrix out of what is saved, under the name that it has with LoRA.
    Reason(NATURE, r"model\.lin1\.lora_A\.default", NAMES, "::test_hotswap_missing_key_works$"),
    Reason(NATURE, r"assert False", NAMES, "::test_from_pretrained_missing_keys_warning$"),
    # The layers, the tuner and the type are those of this project, and say so.
    Reason(NATURE, r"ShareLinear'|'ShareLoraModel' ==|'SHARELORA'", CLASSES, "TestModelAndLayerStatus::"),
    Reason(NATURE, r"lora\.ShareLinear\(", CLASSES, "TestLayerRepr::test_repr_lora_(linear|conv1d)$"),
    Reason(NATURE, r"sharelora\.tuner\.layer\.Share", CLASSES, "::test_modules_to_save_targets_lora_layer_raises$"),
    Reason(NATURE, r"SHARELORA and IA3", CLASSES, "::test_hotswap_different_peft_types_raises$"),
    # A layer has a view of its matrix, which multiplies as a linear layer does and is none.
    Reason(NATURE, r"isinstance\(MatrixView", CLASSES, "::test_add_second_adapter_with_all_linear_works$"),
    # An adapter that shares is no LoRA yet, so nothing is wrong with converting it to one.
    Reason(NATURE, r"DID NOT WARN", CLASSES, "::test_converted_lora_to_lora_works_and_warns$"),
    Reason(NATURE, r"'SHARELORA'> == <", CLASSES, "::test_velora_config_alias_matches_lora_module_config$"),
    # What PEFT makes is its LoraConfig, while the test asks for that which took its place.
    Reason(NATURE, r"isinstance\(LoraConfig", CLASSES, "::test_fixed_rank_lora_config$"),
    # A view takes its matrix in the type of the input, so the types never differ.
    Reason(NATURE, r"DID NOT RAISE RuntimeError", TYPES, "TestDisableInputDtypeCasting::"),
    # Here it says which numbers count the layers, also where no layers are chosen.
    Reason(NATURE, r"DID NOT RAISE ValueError", PATTERN, "::test_regex_with_layer_indexing_lora$"),
    Reason(NATURE, r"DID NOT RAISE ValueError", PATTERN, "::test_lora_config_layers_to_transform_validation$"),
    # It looks at the model inside, without the tuner, where no matrices are.
    Reason(NATURE, r"assert 0 == 616", LAYERS_ALONE, "::test_model_with_injected_layers$"),
    # It means layers alone here, and a warning says so.
    Reason(NAMED, r"NoneType", "experts by all-linear", "::test_qwen3_moe_all_linear_target_modules_works"),
    # PEFT leaves out the matrices of an embedding of another size; a plan is of one model.
    Reason(NAMED, r"made for another model", "another size", "::test_load_resized_embedding_ignore_mismatched_sizes$"),
)


@dataclass(frozen=True)
class Verdict:
    """What became of a test that passes with LoRA.

    Attributes:
        test: its name in pytest.
        kind: one of `KINDS`.
        label: the reason of a refusal, or the error of a failure.
    """

    test: str
    kind: str
    label: str


def comparable(baseline: Iterable[Outcome]) -> list[str]:
    """Return the tests about LoRA that pass with it."""
    return [outcome.test for outcome in baseline if outcome.about_lora and outcome.result == "passed"]


def judge(baseline: Iterable[Outcome], outcomes: Iterable[Outcome]) -> list[Verdict]:
    """Judge every comparable test; one that is missing or was skipped has failed."""
    found = {outcome.test: outcome for outcome in outcomes}
    return [_verdict(test, found.get(test)) for test in comparable(baseline)]


def _verdict(test: str, outcome: Outcome | None) -> Verdict:
    if outcome is None or outcome.result in ("skipped", "expected"):
        return Verdict(test, FAILED, "not run" if outcome is None else f"{outcome.result}, not passed")
    if outcome.result == "passed":
        return Verdict(test, PASSED, "")
    for error, message in outcome.errors:
        for reason in REASONS:
            meant = re.search(reason.test, test) if reason.test else error in REFUSALS
            match = re.search(reason.message, message) if meant else None
            if match:
                return Verdict(test, reason.kind, reason.label or match[1])
    error, message = outcome.errors[0] if outcome.errors else ("", "")
    return Verdict(test, FAILED, f"{error}: {message.strip().splitlines()[0] if message.strip() else ''}"[:160])


def summary(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Return the counts of a run as JSON data: of all, per module of tests, per reason, and the failures by name."""
    verdicts = list(verdicts)
    modules: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        modules.setdefault(module(verdict.test), Counter())[verdict.kind] += 1
    refusals = Counter((v.kind, v.label) for v in verdicts if v.kind in (NAMED, NATURE))
    return {
        "comparable": len(verdicts),
        **{kind: sum(v.kind == kind for v in verdicts) for kind in KINDS},
        "modules": {name: {kind: counts[kind] for kind in KINDS} for name, counts in modules.items()},
        "reasons": [{"kind": kind, "label": label, "tests": n} for (kind, label), n in refusals.most_common()],
        "failures": {v.test: v.label for v in verdicts if v.kind == FAILED},
    }


def module(test: str) -> str:
    """Return the name of a test's module, without `test_`."""
    return test.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")


def share_of_passed(counts: Mapping[str, Any]) -> tuple[float, float]:
    """Return the percentage that passed, of the comparable tests and of those that are not refused by nature."""
    passed, comparable = counts[PASSED], counts["comparable"]
    return 100 * passed / max(comparable, 1), 100 * passed / max(comparable - counts[NATURE], 1)
