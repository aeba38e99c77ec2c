"""Files of strangers, read without trust: pictures, arrays, tables of numbers, `.ts`; shared by plugins."""
