"""What prune.py prints, and says in run.json, about the model that it has made."""

from pocketbert.models.encoder import Encoder
from pocketbert.models.size import count_parameters


def count_units(model):
    """(heads, neurons) of all layers; (0, 0) of a model without them."""
    if not isinstance(model, Encoder):
        return 0, 0
    return sum(model.config.num_heads), sum(model.config.intermediate_sizes)


def describe(model):
    """The size of a model in one phrase."""
    if not isinstance(model, Encoder):
        return f"{count_parameters(model):,} parameters"
    heads, neurons = count_units(model)
    return f"{heads} heads and {neurons} neurons"


def report_vocabulary(report, macro_f1=None):
    """report: from shrink_vocabulary    macro_f1: with the smaller vocabulary; None: there is no score yet"""
    score = "" if macro_f1 is None else f"; macro-F1 {macro_f1:.4f}"
    print(f"vocabulary: {report['tokens_before']:,} -> {report['tokens_after']:,} tokens, "
          f"{report['embedding_bytes_saved'] / 1e6:.1f} MB less; {report['changed_texts']:,} of "
          f"{report['checked_texts']:,} validation texts change their tokens{score}")


def report_budget(budget, model, batch_size, speedup):
    """Print what was asked and what the model costs now; return it for run.json."""
    asked, full, unit = budget.asked, budget.full, budget.cost.unit
    spent = budget.cost.total(model.config.num_heads, model.config.intermediate_sizes)
    print(f"budget: asked {asked:,.4g} {unit} ({asked / full:.1%} of the unpruned), predicted {spent:,.4g} "
          f"({spent / full:.1%}), measured at batch {batch_size} {1 / speedup[f'batch {batch_size}']:.1%} of the time")
    return {"unit": unit, "asked": asked, "predicted": spent, "unpruned": full}


def print_summary(before, after, parameters_before, parameters_after):
    """before, after: scores on the validation texts"""
    kept = after["macro_f1"] / max(before["macro_f1"], 1e-9)
    print(f"{'':<10}{'parameters':>14}{'macro-F1':>10}{'kept':>8}\n"
          f"{'before':<10}{parameters_before:>14,}{before['macro_f1']:>10.4f}\n"
          f"{'pruned':<10}{parameters_after:>14,}{after['macro_f1']:>10.4f}{kept:>8.1%}")
