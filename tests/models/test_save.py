"""save_model: what is saved is what is loaded, transformers agrees, and nothing is ever half-written."""

import json
import os
import sys

import pytest
import torch
import transformers
from safetensors import SafetensorError

from pocketbert.errors import UserError
from pocketbert.files import UNFINISHED
from pocketbert.models.encoder import Encoder, init_weights
from pocketbert.models.folder import check_out, load_model, save_model
from small_models import FAMILIES, LABELS, random_model, small_config


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_dense_folder_loads_in_transformers_with_the_same_logits(family, tmp_path, tokenizer, padded_batch):
    model = random_model(family=family)
    save_model(model, tokenizer, tmp_path / "m", run={})
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(LABELS))
    input_ids, attention_mask = padded_batch
    input_ids = input_ids + model.config.pad_token_id * (attention_mask == 0)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids, attention_mask), theirs.eval()(input_ids, attention_mask).logits,
                                   atol=1e-5, rtol=1e-5)


def test_pruned_folder_is_refused_by_transformers_instead_of_filled_with_random_numbers(tmp_path, tokenizer):
    config = small_config(num_heads=[4, 2, 1], intermediate_sizes=[24, 3, 9])
    save_model(init_weights(Encoder(config)), tokenizer, tmp_path / "m", run={})
    with pytest.raises((ValueError, KeyError)):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_folder_loads_with_identical_logits(family, tmp_path, tokenizer, padded_batch):
    torch.manual_seed(0)
    config = small_config(family, num_heads=[4, 2, 1], intermediate_sizes=[24, 3, 9])
    model = init_weights(Encoder(config), std=0.3).eval()
    save_model(model, tokenizer, tmp_path / "m", run={})
    again, _ = load_model(tmp_path / "m")
    assert torch.equal(model(*padded_batch), again(*padded_batch))


def test_saving_over_an_old_folder_replaces_it_and_keeps_other_peoples_files(tmp_path, tokenizer):
    save_model(random_model(seed=0), tokenizer, tmp_path / "m", run={"n": 1})
    (tmp_path / "m" / "notes.txt").write_text("mine")
    (tmp_path / "m" / "metrics.json").write_text("{}")  # of the old model: must go
    save_model(random_model(seed=1), tokenizer, tmp_path / "m", run={"n": 2})
    assert json.loads((tmp_path / "m" / "run.json").read_text())["n"] == 2
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json", "model.safetensors", "notes.txt", "run.json", "tokenizer.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_folder_that_is_not_ours_is_never_written_into(tmp_path, tokenizer):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(FileExistsError, match="left alone"):
        save_model(random_model(), tokenizer, tmp_path / "photos", run={})
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def die_at(moment):
    """An audit hook that lets `moment` file operations pass and ends the process at the next one."""
    count = iter(range(moment))

    def hook(event, _):
        if event.split(".")[0] in ("open", "os", "shutil", "fcntl") and next(count, None) is None:
            os._exit(9)
    return hook


def save_and_die(moment, model, tokenizer, folder, run):
    """Save in a child process that ends, as by kill -9, at a file operation. Has the save finished?"""
    child = os.fork()
    if child == 0:
        sys.addaudithook(die_at(moment))
        save_model(model, tokenizer, folder, run)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status == 0


def test_a_kill_at_any_file_operation_leaves_the_old_folder_or_the_new_one_or_one_that_is_refused(tmp_path, tokenizer):
    models = [random_model(seed=0), random_model(seed=1)]
    folder = tmp_path / "m"
    found = []
    for moment in range(200):
        save_model(models[0], tokenizer, folder, run={"n": 0})
        (folder / "notes.txt").write_text("mine")
        finished = save_and_die(moment, models[1], tokenizer, folder, run={"n": 1})
        assert (folder / "notes.txt").read_text() == "mine"
        if (folder / "run.json").exists():
            which = json.loads((folder / "run.json").read_text())["n"]
            model, _ = load_model(folder)
            assert all(map(torch.equal, model.parameters(), models[which].parameters()))
        else:
            which = "refused"
            with pytest.raises(UserError, match="interrupted save"):
                load_model(folder)
        found.append(which)
        if finished:
            break
    # It died before the first file changed, between the files, after the last one, and then not at all.
    assert found[0] == 0 and found[-1] == 1 and "refused" in found and len(found) > 20
    assert found == sorted(found, key=[0, "refused", 1].index)


def test_a_kill_in_the_first_save_into_a_folder_leaves_one_that_the_next_save_takes(tmp_path, tokenizer):
    for moment in range(200):
        folder = tmp_path / f"m{moment}"
        if save_and_die(moment, random_model(), tokenizer, folder, run={}):
            break
        if not (folder / "run.json").exists():
            with pytest.raises((UserError, FileNotFoundError)):
                load_model(folder)
        check_out(folder)
        save_model(random_model(), tokenizer, folder, run={})
        load_model(folder)
        assert not (folder / UNFINISHED).exists()
    assert 20 < moment < 199


def test_a_kill_while_an_interrupted_save_is_repeated_leaves_no_folder_that_opens_half_new(tmp_path, tokenizer):
    models = [random_model(seed=0), random_model(seed=1)]
    folder = tmp_path / "m"
    for moment in range(200):
        save_model(models[0], tokenizer, folder, run={})
        (folder / "run.json").unlink()  # as if killed just after run.json was removed
        (folder / UNFINISHED).mkdir()
        finished = save_and_die(moment, models[1], tokenizer, folder, run={"n": 1})
        if (folder / "run.json").exists():
            assert all(map(torch.equal, load_model(folder)[0].parameters(), models[1].parameters()))
        else:
            with pytest.raises(UserError, match="interrupted save"):
                load_model(folder)
        if finished:
            break
    assert 20 < moment < 199


def test_all_files_have_the_same_mode(tmp_path, tokenizer):
    before = os.umask(0o027)
    try:
        save_model(random_model(), tokenizer, tmp_path / "m", run={})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()} == {0o640}


def test_a_full_disk_is_one_line_and_the_old_folder_is_whole(tmp_path, tokenizer, monkeypatch):
    save_model(random_model(seed=0), tokenizer, tmp_path / "m", run={})

    def full(*args, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("pocketbert.models.weight_files.save_file", full)
    with pytest.raises(OSError, match="No space left") as error:
        save_model(random_model(seed=1), tokenizer, tmp_path / "m", run={})
    assert str(tmp_path / "m") in str(error.value) and "\n" not in str(error.value)
    assert all(map(torch.equal, load_model(tmp_path / "m")[0].parameters(), random_model(seed=0).parameters()))
    assert not (tmp_path / "m" / UNFINISHED).exists()


def test_folder_whose_run_json_make_has_removed_may_be_written_again(tmp_path, tokenizer):
    save_model(random_model(seed=0), tokenizer, tmp_path / "m", run={})
    (tmp_path / "m" / "run.json").unlink()
    check_out(tmp_path / "m")
    save_model(random_model(seed=1), tokenizer, tmp_path / "m", run={})
    load_model(tmp_path / "m")


def test_out_may_be_a_link_or_the_current_folder_and_a_link_to_nowhere_is_refused(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    save_model(random_model(), tokenizer, tmp_path / "link", run={})
    assert (tmp_path / "link").is_symlink()
    load_model(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    save_model(random_model(seed=1), tokenizer, ".", run={})
    load_model(".")
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="link to nowhere"):
        check_out(tmp_path / "lost")
