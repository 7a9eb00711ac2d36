"""Write files completely or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NO_SPACE, DataError, os_error_line

if TYPE_CHECKING:
    import h5py


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file and its folder; a reader sees the old content or the new one, never a part.

    Raises
    ------
    DataError
        If the disk is full or the folder cannot be written; an existing file is then left unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if NO_SPACE in (line := os_error_line(error, path)):
            raise DataError(line) from None
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    finally:
        # After a failure only: os.replace has moved the file.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def written_hdf5(path: Path, size: int) -> Iterator["h5py.File"]:
    """An HDF5 file to fill part by part, for arrays that need not fit into memory twice; it appears complete or not.

    Parameters
    ----------
    size
        Bytes of its arrays. That so many can be written is tried first: HDF5 crashes on a full disk.

    Raises
    ------
    DataError
        As :func:`write_atomically`.
    """
    import h5py  # as in write_hdf5

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as reserved:
            _reserve(reserved.fileno(), size)
        with h5py.File(temporary, "w") as file:
            yield file
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename not in (None, str(temporary), str(temporary.parent)):
            raise  # of a file that is read meanwhile
        if isinstance(error, OSError) and NO_SPACE in (line := os_error_line(error, path)):
            raise DataError(line) from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: cannot be written ({reason}); choose another folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reserve(descriptor: int, size: int) -> None:
    """Raise the error of the operating system if a file cannot have so many bytes."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # not on macOS and Windows
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # not on every file system
            raise


def shown_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Files in a folder, sorted; hidden ones, and those in hidden folders, are left out.

    macOS writes a ``._a.h5`` beside ``a.h5`` on foreign disks.
    """
    # Also links that lead nowhere, which a reader refuses by name.
    files = (path for path in (folder.rglob("*") if recursive else folder.iterdir()) if not path.is_dir())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def write_hdf5(path: Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write datasets (``/`` in a name makes groups) and root attributes as one HDF5 file, atomically.

    Raises
    ------
    DataError
        As :func:`write_atomically`.
    """
    import h5py  # here: the commands of a deployment write files of bytes alone and start faster without it

    # Built in memory: HDF5 cannot close a file properly on a full disk.
    with h5py.File("volume", "w", driver="core", backing_store=False) as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array)
        file.attrs.update(attributes)
        file.flush()
        image: bytes = file.id.get_file_image()
    write_atomically(path, image)
