"""The mask criteria of Zhou et al. that are made of other scores, by their names.

Theirs give ties to chance and not to the first: `ties_at_random` of any of these.

Reference:
  Zhou et al., "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", 2019.
"""

from jaxticket.scores.magnitudes import magnitude, magnitude_increase
from jaxticket.scores.sensitivity import gradient, snip
from jaxticket.scores.variants import at_initial, diff_sign, same_sign

large_final = magnitude
large_final_same_sign = same_sign(magnitude)
large_final_diff_sign = diff_sign(magnitude)
magnitude_increase_same_sign = same_sign(magnitude_increase)
magnitude_increase_diff_sign = diff_sign(magnitude_increase)
gradient_at_initial = at_initial(gradient)
snip_at_initial = at_initial(snip)
