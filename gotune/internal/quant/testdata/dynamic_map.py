#!/usr/bin/env python3
"""Prints dynamic_map_unsigned.json: bitsandbytes' unsigned dynamic 8-bit levels (bits of each float32, in hexadecimal)."""
import json
import struct

import bitsandbytes
from bitsandbytes.functional import create_dynamic_map

levels = create_dynamic_map(signed=False).tolist()
print(json.dumps(dict(bitsandbytes=bitsandbytes.__version__, bits=[struct.pack(">f", f).hex() for f in levels])))
