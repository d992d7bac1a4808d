"""LeRobot's plug-in: the policy `fibo` and the environment `fibo`, found by LeRobot by their names.

    lerobot-train --policy.discover_packages_path=fibo_robot.lerobot --policy.type=fibo …

The modules here import LeRobot, and nothing else of fibo_robot imports them. An outermost door, as the
command is: it may import everything but the command.
"""
