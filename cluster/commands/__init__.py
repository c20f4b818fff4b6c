"""The commands, one module each: arguments (``add``) and the function that runs the command. Heavy
imports come after parsing."""
