"""What starts things elsewhere, and the commands of one line that hand over to tsdfm_jax."""
