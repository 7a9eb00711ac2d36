from .attack_run import attack_run as attack_run
from .plan import AttackOptions as AttackOptions
