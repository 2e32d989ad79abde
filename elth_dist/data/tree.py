"""Datasets that are class-per-folder trees of image files. No torch is imported before one is opened."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from elth_dist.data.catalog import Catalog, Split, check_classes, reading, scan, split_folders
from elth_dist.data.options import DataOptions
from elth_dist.errors import UserError

if TYPE_CHECKING:
    import torch

    from elth_dist.data.protocol import Dataset
    from elth_dist.runtime.ranks import Ranks


class ImageTree(DataOptions):
    """A dataset of files below `root`: train/ and val/ (or test/), a folder per class in each."""

    #: (training images, classes) of the published dataset, if it is one.
    published: ClassVar[tuple[int, int] | None] = None

    def known_size(self) -> tuple[int, int] | None:
        """Return the published numbers if no folder is given; else None, as a folder must be counted."""
        return self.published if self.root is None else None

    def size(self) -> tuple[int, int]:
        """Count `root`, or return the published numbers. UserError if there is neither, or `root` is not a tree."""
        known = self.known_size()
        if known is not None:
            return known
        catalog = scan(self._folder())
        return len(catalog.train), len(catalog.classes)

    def check(self, *, elsewhere: bool = False) -> None:
        """Check that `root` holds both splits with the same classes. UserError."""
        super().check(elsewhere=elsewhere)
        root = self._folder()
        if not elsewhere:
            with reading():
                check_classes(*split_folders(root))

    def open(self, ranks: "Ranks", default_root: Path, dtype: "torch.dtype") -> "Dataset":
        """List the files of the tree, and decode all images if the loader or `verify` needs it."""
        return open_tree(self, self._folder(), ranks, dtype)

    def _folder(self) -> Path:
        if self.root is None:
            raise UserError(f"data.root: {self.name!r} needs the folder of the dataset; pass --data.root FOLDER")
        return self.root


def open_tree(options: DataOptions, root: Path, ranks: "Ranks", dtype: "torch.dtype") -> "Dataset":
    """Open the class-per-folder tree `root` with the loader that `options` name. Collective: rank 0 lists the files.

    Raises:
        UserError: on every rank, if the tree is invalid.
    """
    catalog = _scan_for_all(root, ranks)
    if options.loader == "resident":
        from elth_dist.data.decoded import decode_together
        from elth_dist.data.resident import ResidentData

        train, val = decode_together(catalog, options, ranks)
        return ResidentData(options, ranks, dtype, train, val, num_classes=len(catalog.classes))
    from elth_dist.data.dali import DaliData

    if options.verify == "decode":
        _verify(catalog, options, ranks)
    return DaliData(options, ranks, dtype, catalog)


def _scan_for_all(root: Path, ranks: "Ranks") -> Catalog:
    catalog: Catalog | None = None
    with ranks.together():
        if ranks.is_main:
            catalog = scan(root)
    if ranks.alone and catalog is not None:
        return catalog
    return Catalog.from_json(ranks.broadcast_json(catalog.to_json() if catalog else None))


def _verify(catalog: Catalog, options: DataOptions, ranks: "Ranks") -> None:
    from elth_dist.data.dali import undecodable

    splits: tuple[Split, Split] = (catalog.train, catalog.val)
    paths = [split.path(index) for split in splits for index in range(ranks.rank, len(split), ranks.world_size)]
    mine = [f"{path} ({reason})" for path, reason in undecodable(paths, options, ranks.device)]
    everywhere = sorted(text for part in ranks.gather_json(mine) for text in part)
    if everywhere:
        more = f" and {len(everywhere) - 5} more" if len(everywhere) > 5 else ""
        raise UserError(f"data.root: these images do not decode: {', '.join(everywhere[:5])}{more}")
