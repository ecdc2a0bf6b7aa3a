"""PNG: read by Pillow, whole."""
import sys

from PIL import Image

with Image.open(sys.argv[1]) as image:
    image.verify()
with Image.open(sys.argv[1]) as image:
    assert image.format == "PNG"
    width, height = image.size
    assert 640 <= width <= 8000 and 100 <= height and width * height <= 16_100_000, image.size
    colours = image.convert("RGB").getcolors(width * height)
    # Paper, ink, boxes, and the shades between them: a picture, and not an empty one.
    assert len(colours) > 20, len(colours)
    assert max(colours)[1] == (255, 255, 255), max(colours)
print(f"valid: {width} x {height}, {len(colours)} colours")
