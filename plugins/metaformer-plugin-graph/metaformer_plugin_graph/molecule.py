"""A SMILES text → atoms and bonds with the categories of the Open Graph Benchmark.

Source: OGB-LSC (arXiv 2103.09430); the order of columns and of values is that of its published graphs. Atoms: number,
chirality, degree, charge, hydrogens, radical electrons, hybridisation, aromatic, in a ring. Bonds: type, stereo,
conjugated. Hydrogens are not atoms of their own. Needs rdkit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from metaformer.errors import DataError

ATOM = (119, 5, 12, 12, 10, 6, 6, 2, 2)
BOND = (5, 6, 2)
"""Categories of each column: `node_categorical` and `edge_categorical` of the tokenizer."""

CHIRALITY = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER")
HYBRIDISATION = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
STEREO = ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")
MAX_TEXT = 2000
"""Characters of a SMILES text; the largest of PCQM4Mv2 has some two hundred."""


def import_rdkit() -> Any:
    """`rdkit.Chem`. Raises DataError where it is absent."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise DataError(
            "molecules out of SMILES", "rdkit is absent", "pip install 'metaformer-plugin-graph[molecules]'"
        ) from error
    # What is wrong with a text is said in a DataError, and not on the error stream beside it.
    rdBase.DisableLog("rdApp.*")
    return Chem


def read_smiles(text: str, source: str = "") -> dict[str, Any]:
    """{num_nodes, edge_index [2, 2E] (both directions), x [N, 9], edge_attr [2E, 3]}. Raises DataError."""
    Chem = import_rdkit()
    molecule = Chem.MolFromSmiles(text) if 0 < len(text) <= MAX_TEXT and text.isascii() else None
    if molecule is None or not molecule.GetNumAtoms():
        raise DataError(f"a molecule{source} as SMILES", f"{text!r:.60}", "repair it, or leave it out")
    atoms = [_atom(atom) for atom in molecule.GetAtoms()]
    ends, bonds = [], []
    for bond in molecule.GetBonds():
        u, v = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        ends += [(u, v), (v, u)]
        bonds += [_bond(bond)] * 2
    return {
        "num_nodes": len(atoms),
        "edge_index": np.array(ends, dtype=np.int64).reshape(-1, 2).T,
        "x": np.array(atoms, dtype=np.int64),
        "edge_attr": np.array(bonds, dtype=np.int64).reshape(-1, len(BOND)),
    }


def _atom(atom: Any) -> list[int]:
    return [
        _among(atom.GetAtomicNum() - 1, ATOM[0]),
        _named(str(atom.GetChiralTag()), CHIRALITY),
        _among(atom.GetTotalDegree(), ATOM[2]),
        _among(atom.GetFormalCharge() + 5, ATOM[3]),
        _among(atom.GetTotalNumHs(), ATOM[4]),
        _among(atom.GetNumRadicalElectrons(), ATOM[5]),
        _named(str(atom.GetHybridization()), HYBRIDISATION),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    ]


def _bond(bond: Any) -> list[int]:
    # Stereo has no class for what is unknown to it (bonds that hinder a rotation): it counts as `any`, the last.
    stereo = min(_named(str(bond.GetStereo()), STEREO), BOND[1] - 1)
    return [_named(str(bond.GetBondType()), BONDS), stereo, int(bond.GetIsConjugated())]


def _among(value: int, size: int) -> int:
    """The value, or the last class, which stands for all others."""
    return value if 0 <= value < size - 1 else size - 1


def _named(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else len(names)
