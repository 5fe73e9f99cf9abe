"""Answer LLaVA-Bench's questions about images, and score a judge's ratings of the answers.

    python eval/llava_bench.py --adapter runs/a --bench DIR --output runs/a_bench                      answers.jsonl
    python eval/llava_bench.py --adapter runs/a --bench DIR --judge_url http://localhost:8000/v1 --judge_model NAME
    python eval/llava_bench.py --bench DIR --ratings reviews.jsonl --output runs/a_bench               scores a file

DIR has `questions.jsonl`, `images/`, and for a judge `answers_gpt4.jsonl` and `context.jsonl`. Nothing is sent to a
judge unless `--judge_url` names one. Answers and ratings are kept as they come, so the same command continues after a
kill.
"""

from __future__ import annotations

from sharelora.evaluation.commands import LLAVA_BENCH
from sharelora.support.errors import run_main

parser, main = LLAVA_BENCH.parser, LLAVA_BENCH.main

if __name__ == "__main__":
    run_main(main)
