"""Where an Optuna study lies, and the workers that share it.

    storage = open_storage("runs/search/study.db")                       # a file: the workers of one machine
    storage = open_storage("postgresql://user:password@host/searches")   # a database: several machines

A worker is a process. Its trials carry [host, process number]; one that was killed leaves a trial that runs for ever,
which the others count as failed: at once on the same host, on another one after three minutes without a sign of life.
"""

import os
import socket
import sqlite3
import time
import warnings
from datetime import datetime, timedelta

import numpy as np
import optuna
import sqlalchemy.event
import sqlalchemy.exc
from optuna.trial import TrialState

from pocketbert.errors import UserError
from pocketbert.files import is_running

SIGN_OF_LIFE = 60  # seconds between two of a worker
LOST_AFTER = 180


def open_storage(where):
    """Optuna's storage at a database URL, or in an SQLite file. The folder of the file must be there."""
    options = {"heartbeat_interval": SIGN_OF_LIFE, "grace_period": LOST_AFTER}
    url = str(where)
    if "://" not in url:  # the path is not part of the URL, in which ? # % { have a meaning
        url = "sqlite://"
        options["engine_kwargs"] = {"creator": lambda: sqlite3.connect(where, timeout=60)}
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna's "experimental"
                storage = optuna.storages.RDBStorage(url, **options)
            if storage.engine.dialect.name == "sqlite":
                take_turns(storage.engine)
            return storage
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            problem = str(error).splitlines()[0]
            if not isinstance(error, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError)):
                break
        time.sleep(0.2 * attempt)  # another worker makes the tables at this moment
    raise UserError(f"--storage {where} cannot be opened: {problem}")


def take_turns(engine):
    """Let each transaction in an SQLite file begin with the lock for writing.

    Python's sqlite3 reads without a transaction, so two workers could both read that a trial waits, and both take it.
    """
    sqlalchemy.event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    sqlalchemy.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # the connections that are open already begin as before


def claim_study(study, settings, where):
    """Mark a study as that of one command on one data, or see that it is. where: the storage, for messages

    settings: what all trials have in common; a UserError says what differs.
    """
    earlier = study.user_attrs.get("settings")
    if earlier is None:
        study.set_user_attr("settings", settings)
    else:
        check_settings(earlier, settings, where, "--storage or --study")


def check_settings(earlier, settings, where, flags="--out"):
    """A UserError unless a search that is there has the same settings. flags: what leads elsewhere"""
    if earlier.get("command") != settings["command"]:
        raise UserError(f"{where} holds the search of another command ({earlier.get('command')}): give another {flags}")
    changed = [name for name in settings if earlier.get(name) != settings[name]]
    if changed:
        raise UserError(f"{where} holds a search with other {' and '.join(changed)}: they have changed since, so new "
                        f"scores could not be compared with those that are there; give another {flags}")


def this_worker():
    return [socket.gethostname(), os.getpid()]


def is_alive(worker):
    """Does another process still work? Of another host nothing is known: yes."""
    host, process = worker
    return worker != this_worker() and (host != socket.gethostname() or is_running(process))


def fail_lost_trials(study):
    """Tell the study that the running trials of killed workers have failed. To be called between two trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.storages.fail_stale_trials(study)  # by signs of life
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        worker = trial.user_attrs.get("worker")
        just_begun = datetime.now() - trial.datetime_start < timedelta(seconds=LOST_AFTER)  # it has no worker yet
        if not (is_alive(worker) if worker else just_begun):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def begun(study, before=None):
    """How many trials have ended, with a model or without, or run. before: of those with a smaller number"""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING])
    return sum(before is None or trial.number < before for trial in trials)


def worker_seed(seed, study, shared):
    """Another seed after each interruption and in each worker, or the sampler would suggest the same values again.

    A hash of the three numbers: their sum would be equal for a process that starts one trial later than the next one.
    """
    numbers = (seed % 2 ** 32, len(study.trials), os.getpid() if shared else 0)
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
