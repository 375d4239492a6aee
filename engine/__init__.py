"""How bytes become rows and rows become a published catalogue; knows no particular model."""
