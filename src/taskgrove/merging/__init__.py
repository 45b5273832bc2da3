"""How separately trained weights become one: one method a file, two explicit tables.

`table.STATIC`: a pure function of blocks of numbers, in numpy (see static, stream); `in_memory`
merges arrays with it, `stream` folders of any size. Learned methods (`adamerging`, `atlas`,
`self_positioning`) are in torch, over one `ScaledMerge`. Nothing is imported here, so that a merge
at the command line starts without torch.
"""
