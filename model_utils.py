"""The door to the models: a folder, a Hub id or a recipe becomes a model that runs; a model becomes a folder.

    model, tokenizer = load_model("runs/demo/teacher")          # or a Hugging Face folder, or a Hub id
    ids = tokenizer(["great", "awful"], text_length(model))
    logits = predict(model, ids, batch_size=32, pad_id=tokenizer.pad_id)
    save_model(model, tokenizer, "runs/copy", run={"script": "copy.py"})

    model, tokenizer, data = open_model("gru:hidden=256", data)  # to be trained on `data`

What a model folder is, pocketbert/models/folder.py says. FORMATS names every stored format and its class.
"""

from pocketbert.data.labels import align_labels
from pocketbert.errors import UserError
from pocketbert.models.folder import check_out, load_model, save_model
from pocketbert.models.opening import text_length
from pocketbert.models.predict import predict
from pocketbert.models.recipes import RECIPES, build_recurrent, model_from_scratch, start_word_vectors
from pocketbert.models.recurrent_config import RECURRENT_KINDS
from pocketbert.models.sparse import to_dense
from pocketbert.models.stored import FORMATS, word_vectors

__all__ = ["FORMATS", "check_out", "load_model", "open_model", "predict", "save_model", "text_length"]


def open_model(name, data, words=None, **options):
    """A float model to train on `data`: from a recipe (`scratch:...`, `lstm`, ...), a folder or a Hub id.

    words: for a recurrent recipe, the model whose tokenizer it takes and whose word vectors it starts from.
    options: those of load_model: new_head, tokenizer_name, cleaning.
    Returns (model, tokenizer, data with the labels in the model's order).
    """
    kind = name.split(":")[0]
    if words and kind not in RECURRENT_KINDS:
        raise UserError(f"--words {words} goes with {', '.join(RECURRENT_KINDS)}; {name} has words of its own")
    if kind not in RECIPES:
        model, tokenizer = load_model(name, label_names=data.label_names, **options)
        model = to_dense(model)
    elif given := [option for option, value in options.items() if value]:
        flag = given[0].removesuffix("_name").replace("_", "-")
        raise UserError(f"--{flag} does not go with {name}: a new model has a head and a tokenizer of its own")
    elif words:
        source, tokenizer = load_model(words, label_names=data.label_names)
        model = build_recurrent(name, tokenizer.vocab_size, tokenizer.pad_id, data.label_names)
        start_word_vectors(model, word_vectors(source)[:tokenizer.vocab_size])
    else:
        model, tokenizer = model_from_scratch(name, data.train.texts, data.label_names)
    if model.config.stored_formats:
        raise UserError("a quantized model cannot be trained: train its fp32 parent")
    data = align_labels(data, model.config.label_names)
    model.config.label_names = list(data.label_names)
    return model, tokenizer, data
