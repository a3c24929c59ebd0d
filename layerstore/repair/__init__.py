"""Owns repairs: a plan of acts for what an audit found, and the acts themselves, each in the journal.

`planning` decides and changes nothing, `acting` carries a plan out, `undoing` takes an act back and
empties the quarantine; `verb` is the part of Store. What a thing is called, `forms` says.
"""
