"""What an export holds: the plan, the recovery parameters, every setting, and how a recipe is found."""
