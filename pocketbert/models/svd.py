"""A narrower embedding table."""

import torch


def narrow_table(table, width):
    """The embeddings of a narrower student: table (V, d) -> (V, width), and the projection (d, width) between them.

    With table = U S W^T, projection = the first `width` columns of W, and table @ projection = U S without the rest:
    of all tables of this rank, narrow @ projection^T is the nearest to the teacher's (Eckart and Young 1936). The table
    is not centred, unlike in PCA, so that scalar products change as little as possible. Project positions and token
    types with the same matrix, because the encoder adds them to the words. Its transpose is a good start for the
    projection of the hidden loss in distillation.
    """
    if not 1 <= width <= table.shape[1]:
        raise ValueError(f"a table of width {table.shape[1]} cannot be narrowed to {width}")
    table = table.detach()
    # W: the eigenvectors of table^T table, which is d x d however many rows the table has.
    _, vectors = torch.linalg.eigh(table.double().T @ table.double())  # eigenvalues in rising order
    projection = vectors.flip(1)[:, :width].to(table.dtype).contiguous()
    return table @ projection, projection
