"""The models' door."""

from pocketbert.data.labels import align_labels
from pocketbert.models.folder import load_model
from pocketbert.models.recipes import RECIPES, build_recurrent, model_from_scratch, start_word_vectors
from pocketbert.models.recurrent import RECURRENT_KINDS
from pocketbert.models.sparse import to_dense
from pocketbert.models.stored import word_vectors
from pocketbert.training.optim import prepare_for_training


def open_model(name, data, args, words=None, **options):
    """A model ready to train on `data`: a recipe (`scratch:...`, `lstm`, ...), a folder or a Hub id.

    words: for a recurrent recipe, the model whose tokenizer it takes and whose word vectors it starts from.
    Returns (model, tokenizer, data with the labels in the model's order).
    """
    kind = name.split(":")[0]
    if words and kind not in RECURRENT_KINDS:
        raise ValueError(f"--words {words} goes with {', '.join(RECURRENT_KINDS)}; {name} has words of its own")
    if kind in RECIPES:
        if given := [flag for flag, value in options.items() if value]:
            raise ValueError(f"--{given[0].replace('_name', '').replace('_', '-')} does not go with {name}: a model "
                             "from scratch has a head and a tokenizer of its own")
        if words:
            source, tokenizer = load_model(words, label_names=data.label_names)
            model = build_recurrent(name, tokenizer.vocab_size, tokenizer.pad_id, data.label_names)
            start_word_vectors(model, word_vectors(source)[:tokenizer.vocab_size])
        else:
            model, tokenizer = model_from_scratch(name, data.train.texts, data.label_names)
    else:
        model, tokenizer = load_model(name, label_names=data.label_names, **options)
        model = to_dense(model)
    prepare_for_training(model, args)
    data = align_labels(data, model.config.label_names)
    model.config.label_names = list(data.label_names)  # LABEL_0, LABEL_1 ... get the names that the data has
    return model, tokenizer, data
