"""Official GLUE files in small: the published headers, a line or two of each."""

from __future__ import annotations

from pathlib import Path

PARSES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
MNLI = f"index\tpromptID\tpairID\tgenre\t{PARSES}\tsentence1\tsentence2"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
OFFICIAL: dict[str, dict[str, str]] = {
    "CoLA": {
        "train": 'gj04\t1\t\tShe said "no.\ngj04\t0\t*\tHim said no.\n',
        "dev": "gj04\t1\t\tWe agree.\n",
        "test": "index\tsentence\n0\tBill whistled.\n1\tWhistled Bill.\n",
    },
    "MNLI": {
        "train": f"{MNLI}\tlabel1\tgold_label\n0\t1\t1n\tx\tp\tp\tp\tp\tA b.\tC d.\tneutral\tneutral\n",
        "dev_matched": f"{MNLI}\tlabel1\tlabel2\tgold_label\n0\t1\t1\tx\tp\tp\tp\tp\tA b.\tE.\te\tn\tentailment\n",
        "dev_mismatched": f"{MNLI}\tlabel1\tlabel2\tgold_label\n0\t1\t1\ty\tp\tp\tp\tp\tA.\tF.\tc\tc\tcontradiction\n",
        "test_matched": f"{MNLI}\n0\t1\t1\tx\tp\tp\tp\tp\tA b.\tG.\n",
        "test_mismatched": f"{MNLI}\n9847\t1\t1\ty\tp\tp\tp\tp\tA b.\tH.\n",
    },
    "MRPC": {
        "train": 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tOne.\tThe "one"".\n0\t7\t9\tOne.\tTwo.\n',
        "test": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tOne.\tOne!\n",
    },
    "QNLI": {
        "train": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tentailment\n1\tWhere?\tHe.\tnot_entailment\n",
        "test": "index\tquestion\tsentence\n0\tWho?\tShe.\n",
    },
    "QQP": {
        "train": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "133273\t1\t2\tWhy?\tHow so?\t1\n201359\t3\t4\tWhat is\nthis\tHow?\t0\n88\t5\t6\tWho?\tWhere?\t0\n",
        "test": "id\tquestion1\tquestion2\n5\tWhy?\tWhen?\n",
    },
    "RTE": {
        "train": "index\tsentence1\tsentence2\tlabel\n0\tNo.\tYes.\tnot_entailment\n",
        "test": "index\tsentence1\tsentence2\n0\tA.\tB.\n",
    },
    "SST-2": {
        "train": "sentence\tlabel\nhide new secretions \t0\nthat loves its characters \t1\n",
        "test": "index\tsentence\n0\tuneasy mishmash .\n",
    },
    "STS-B": {
        "train": f"{STSB}\tscore\n0\tmain\tMSR\t2012\t0001\tnone\tnone\tA plane.\tThe plane.\t4.750\n",
        "test": f"{STSB}\n0\tmain\tMSR\t2012\t0001\tnone\tnone\tA girl.\tA boy.\n",
    },
    "WNLI": {
        "train": "index\tsentence1\tsentence2\tlabel\n0\tIt fell.\tThe cup fell.\t1\n",
        "test": "index\tsentence1\tsentence2\n0\tIt broke.\tThe jar broke.\n",
    },
}
# What the first row of train says: texts and label.
FIRST = {
    "cola": (('She said "no.',), 1),
    "mnli": (("A b.", "C d."), 1),
    "mrpc": (("One.", 'The "one"".'), 1),
    "qnli": (("Who?", "He."), 0),
    "qqp": (("Why?", "How so?"), 1),
    "rte": (("No.", "Yes."), 1),
    "sst2": (("hide new secretions ",), 0),
    "stsb": (("A plane.", "The plane."), 4.75),
    "wnli": (("It fell.", "The cup fell."), 1),
}


def write_official(root: Path) -> Path:
    """Write every file below `root/glue`."""
    for folder, files in OFFICIAL.items():
        for split, text in files.items():
            path = root / "glue" / folder / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return root
