"""The mathematics of Normalizing Trajectory Models: forward chain, transporter, exact likelihood, sampling, denoising."""
