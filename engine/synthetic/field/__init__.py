"""Synthetic NIRCam sky: who lies where, with which light in which band, how it is drawn and observed."""
