"""DICOM-CT-PD: cone-beam projections as scanners measured them, and their slices."""
