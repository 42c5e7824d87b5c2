"""The statements of the paper, the authors' numbers, and the rule by which runs decide a statement."""
