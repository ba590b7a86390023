"""More examples than fit: summed in tiles, in one kernel, over devices, over processes."""
