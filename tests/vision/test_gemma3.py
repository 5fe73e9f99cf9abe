"""Another class of models with the same interface: Gemma 3, which is told where images are and has its own template."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_vision import Job, row, write_rows
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

sys.path.append(str(Path(__file__).parents[1] / "training"))
from small_llama import write_tokenizer

from sharelora.data.vision import ConversationWriter, ImageTextCollator, encode, image_reader, read_conversations
from sharelora.data.vision.batches import spread
from sharelora.data.vision.tokens import tokenise
from sharelora.models.adapter import load_adapter
from sharelora.models.vision import PROJECTOR, load_processor, load_vision_base

SOFT, BEGIN, END = "<soft>", "<boi>", "<eoi>"
TEMPLATE = (
    "{% for turn in messages %}<{{ turn.role }}>{% for part in turn.content %}"
    "{% if part.type == 'image' %}<boi>{% else %}{{ part.text }}{% endif %}{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    plain = write_tokenizer(folder)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain._tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
        model_specific_special_tokens={"image_token": SOFT, "boi_token": BEGIN, "eoi_token": END},
    )


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 3 of two layers, 4 tokens an image."""
    folder = tmp_path_factory.mktemp("gemma")
    made = tokenizer(folder)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(made)}
    special = {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id, "pad_token_id": made.pad_token_id}
    config = Gemma3Config(
        text_config={**shape, **text, **special, "max_position_embeddings": 512},
        vision_config={
            "model_type": "siglip_vision_model",
            **shape,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        mm_tokens_per_image=4,
        boi_token_index=made.convert_tokens_to_ids(BEGIN),
        eoi_token_index=made.convert_tokens_to_ids(END),
        image_token_index=made.convert_tokens_to_ids(SOFT),
    )
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    model.save_pretrained(folder)
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    Gemma3Processor(images, made, chat_template=TEMPLATE, image_seq_length=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gemma_writer(gemma: Path) -> ConversationWriter:
    return ConversationWriter(image_reader(load_processor(str(gemma))), "own")


def test_a_prompt_is_what_its_processor_makes_of_it(tmp_path: Path, gemma_writer: ConversationWriter) -> None:
    asked = row("See <image>\nand <image>", image=["a.png", "b.png"])
    [record] = read_conversations(write_rows(tmp_path, asked), need_answer=False)
    [piece] = gemma_writer.pieces(record)
    assert piece.text == "<user>See <boi>and <boi></s>\n<assistant>"
    reader = gemma_writer.reader
    images = [Image.open(path) for path in record.images]
    reference = reader.processor(images=[images], text=[piece.text], return_tensors="pt", add_special_tokens=False)
    [(ids, learnt)] = tokenise(gemma_writer, [record])
    found = spread(reader, torch.tensor(ids), torch.tensor(learnt))["input_ids"]
    assert found[0] == reader.tokenizer.bos_token_id and torch.equal(found[1:], reference["input_ids"][0])
    batch = ImageTextCollator(reader, 2)([{"input_ids": found, **reader.values(images)}])
    assert torch.equal(batch["token_type_ids"][0, 1:], reference["token_type_ids"][0])
    assert torch.equal(batch["pixel_values"], reference["pixel_values"]) and set(batch) - {"labels"} == set(reference)


def test_it_is_tuned_saved_and_read_again(job: Job, gemma: Path, made: Path, gemma_writer: ConversationWriter) -> None:
    args = job(model_name_or_path=str(gemma), do_eval="true")
    folder = args.output_dir / "adapter_model"
    saved = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    paths = [site["path"] for site in config["plan"]["sites"]]
    assert len(paths) == 14 and all(path.startswith("model.language_model.") for path in paths)
    beside = {name.rpartition(f"{PROJECTOR}.")[2] for name in saved if PROJECTOR in name}
    assert beside == {"mm_input_projection_weight", "mm_soft_emb_norm.weight"}
    rows, _ = encode(gemma_writer, read_conversations(made / "llava" / "train.json")[:2], 512, "train")
    batch = ImageTextCollator(gemma_writer.reader, 2)([rows[0], rows[1]])
    base, again = (load_vision_base(str(gemma)) for _ in range(2))
    tuned = load_adapter(again, args.output_dir)
    with torch.no_grad():
        assert not torch.allclose(base(**batch).logits, tuned.eval()(**batch).logits)
    assert json.loads((args.output_dir / "metrics.json").read_text())["eval_loss"] > 0
