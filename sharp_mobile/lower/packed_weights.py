"""Weights that lie in an export as XNNPACK packs them, and what they are good for."""

from pydantic import BaseModel, ConfigDict


class PackedWeights(BaseModel):
    """An entry of a manifest.

    file: where they are, from the export's directory. profile: the phone that they were packed on. cpu_class: what a
    processor must have in common with that one. runtime: the version of ExecuTorch that reads them. pte_sha256: of the
    `.pte` that they belong to. sha256, bytes: of the file itself; it is not to be believed without.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    profile: str
    cpu_class: str
    runtime: str
    pte_sha256: str
    sha256: str
    bytes: int
