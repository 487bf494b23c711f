"""Compare the sizes of a model under several plans, before any of them is made; no weight is read.

python examples/compare_plans.py smollm2-135m
python examples/compare_plans.py random:llama-2-7b --plan t_next --plan t_back --rank 384
"""

import argparse
import sys

from sharp_mobile import SharpError, load_recipe, predict_size

PLANS = ["t_next", "t_next2", "t_back", "t_more"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a recipe's name or file, a model, or random:CONFIG.json")
    parser.add_argument("--plan", action="append", help=f"may be given several times; by default {', '.join(PLANS)}")
    parser.add_argument("--rank", type=int, help="rank of the recovery parameters")
    options = parser.parse_args()

    plans = ["none", *(options.plan or PLANS)]
    sizes = [predict_size(load_recipe(options.model, plan=plan, rank=options.rank)) for plan in plans]
    print(f"{'plan':<20}{'file':>16}{'':>8}{'MLPs':>16}{'recovery':>16}{'resident':>16}")
    for plan, size in zip(plans, sizes, strict=True):
        columns = (size.file.mlps, size.file.recovery, size.resident.total)
        change = f"{size.file.total / sizes[0].file.total - 1:+.1%}"
        print(f"{plan:<20}{size.file.total:>16,}{change:>8}" + "".join(f"{column:>16,}" for column in columns))


if __name__ == "__main__":
    try:
        main()
    except SharpError as error:
        sys.exit(f"error: {error}")
