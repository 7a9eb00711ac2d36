"""Labels lie on the images of their scans, whatever the axes of their file; all others are one line."""

from recon import (
    TaskLabels,
)

SEGMENTATION = TaskLabels("segmentation", ("lesion", "cyst"))
CLASSES = TaskLabels("classification", ("lesion", "cyst"))
#: A scan of 3 slices with another height than width.
SHAPE = (3, 24, 20)
