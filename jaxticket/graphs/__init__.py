"""Networks as the steps that they compute: what reaches what, and which axes are one.

`walking` follows the steps of any network, `reach` what can be seen of its inputs and
parameters in its outputs, `ties` which axes of the parameters have the same units.
`structure.effective` and `compaction` read them.
"""
