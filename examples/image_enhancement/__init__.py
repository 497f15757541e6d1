"""Make a photo better: find out what is wrong with it, mend that, look again."""
