"""Weights & Biases, offline: what its file holds."""

import train
from script_runs import train_argv


def wandb_records(path):
    """The records of an offline run's file: LevelDB's log format after a header of 7 bytes, each a protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block's last bytes, too few for a header
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        part += data[at + 7:at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def test_offline_wandb_run_holds_configuration_curves_and_confusion_matrix(mine, tmp_path):
    import wandb
    train.main(train_argv(mine, tmp_path / "out", wandb="offline"))
    wandb.teardown()  # its writer is a process of its own, and done when it has ended
    [path] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    keys, config = set(), {}
    for record in wandb_records(path):
        keys |= {item.key or ".".join(item.nested_key) for item in record.history.item}
        config |= {item.key: item.value_json for item in record.run.config.update}
    assert {"train/loss", "validation/macro_f1", "epoch"} <= keys
    assert any("confusion_matrix" in key for key in keys), keys
    assert config["lr"] == "0.01" and "scratch" in config["model"]
