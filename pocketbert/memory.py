"""The peak memory of a process. torch is looked at only where it is loaded already."""

import resource
import sys
from pathlib import Path


def peak_bytes():
    """The largest resident memory that this process has had so far.

    On Linux VmHWM: ru_maxrss begins with what the parent had when it started the process.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def peak_megabytes():
    """{"process": peak_bytes() in 10^6 bytes}, and with a GPU "gpu": the most that tensors have occupied there."""
    peaks = {"process": round(peak_bytes() / 1e6, 1)}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return peaks
