from tests.executors_apart import only_executors_of_the_program

__all__ = ["only_executors_of_the_program"]
