"""The report as one HTML file: metrics, errors, slices, calibration, data warnings and advice."""
