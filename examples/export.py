"""Export a model for a phone, and let it answer.

python examples/export.py smollm2-135m
python examples/export.py ./Llama-3.2-1B-Instruct --plan t_back --rank 128 --out build/llama
"""

import argparse
import sys

from sharp_mobile import SharpError, export, load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a recipe's name or file, a Hugging Face directory or id, or a .gguf file")
    parser.add_argument("--plan", help="none, a preset such as t_next, or '3:4, 16:17-22' (reference:targets)")
    parser.add_argument("--rank", type=int, help="rank of the recovery parameters")
    parser.add_argument("--out", default="build/exports/example", help="directory of the export")
    parser.add_argument("--prompt", default="What is the capital of France?")
    options = parser.parse_args()

    recipe = load_recipe(options.model, plan=options.plan, rank=options.rank)
    phone = export(recipe, options.out, progress=True)

    sizes = phone.manifest.sizes
    print(f"{phone.path / 'model.pte'}: {sizes.file:,} bytes; {sizes.unshared:,} with nothing shared")
    print(f"plan {phone.manifest.plan}, {phone.manifest.divergence:.2g} nats a token from the eager model")
    print(phone.generate(options.prompt))


if __name__ == "__main__":  # processes that the warm-up starts import this file
    try:
        main()
    except SharpError as error:
        sys.exit(f"error: {error}")
