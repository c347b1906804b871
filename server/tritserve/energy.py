"""Energy of the processor packages, where the kernel lets us read it (RAPL through powercap; usually root only)."""

from __future__ import annotations

from pathlib import Path


def package_joules(root: Path = Path("/")) -> dict[str, float]:
    """Return each package's running energy counter in joules; empty where it cannot be read.

    The counters wrap (at ``max_energy_range_uj``, tens of minutes under full load) and start anywhere: to a reader they are counters that
    were reset, which is how Prometheus treats them.
    """
    found: dict[str, float] = {}
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*")):
        if folder.name.count(":") != 1:
            continue  # a part of a package: already in its sum
        try:
            name = (folder / "name").read_text().strip()
            found[name] = int((folder / "energy_uj").read_text()) / 1e6
        except (OSError, ValueError):
            continue
    return found
