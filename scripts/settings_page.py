"""Write docs/settings.md from the fields of the settings."""

from pathlib import Path

from sse_gateway.config.table import markdown

if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    page.write_text(markdown(), encoding="utf-8")
