"""Command lines that are refused, and words of the one line that says why."""

from typing import NamedTuple


class Line(NamedTuple):
    """What is typed after `python -m experiments.`, and words that follow `error: `.

    The words begin with the flag; `{folder}` is an empty folder of the test.
    """

    typed: str
    says: tuple[str, ...]


FRACTION = "must be the fraction kept, in (0, 1]; got"
COUNT = "must be a whole number from 1; got"
PLACE = "must be a whole number from 0; got"
MANY = "must be a whole number from 1 to 65536; got"
POSITIVE, NOT_NEGATIVE = "must be above 0 and finite; got", "must be at least 0 and"
TICKETS = [  # of `ticket_search`, to which --dataset=digits is added
    # Names, and what nearly is one.
    ("--model=lenet", "--model must be one of mlp, mlp_1d, lenet", "mean 'lenet_5'?"),
    ("--model=nowhere:net", "--model=nowhere:net: No module named 'nowhere'"),
    ("--model=own:net", "--model=own:net: own has no 'net'"),
    ("--model=own:nothing", "no network: {'outputs': 1}; give a"),
    ("--model=:net", "--model must be one of", "got ':net'"),
    ("--loss=hinge", "--loss must be one of cross_entropy", "got 'hinge'"),
    ("--loss=own:nowhere", "--loss=own:nowhere: own has no 'nowhere'"),
    ("--loss=squared_error",
     "--model=lenet_300_100 and --loss=squared_error do not fit"),
    ("--dataset=mnits", "mnits", "did you mean 'mnist'?"),
    ("--dataset=nowhere.npz", "nowhere.npz: there is no such file"),
    ("--dataset=own:nothing", "--dataset=own:nothing(outputs): missing a required"),
    ("--dataset=own:pairless", "must return training and test", "got int"),
    ("--dataset=own:scattered", "training images must be finite, got nan at"),
    ("--dataset=own:below", "training labels are classes or tokens from 0; got -1"),
    ("--dataset=own:arrays --model=own:linen --batch_size=20",
     "do not fit data of images float32 [6] and labels float32 [2]: labels must be"),
    ("--dataset=own:arrays --model=conv_2 --loss=squared_error --batch_size=20",
     "--model=conv_2 does not fit images float32 [6]: got images of shape"),
    ("--dataset=own:arrays --model=own:linen --augment --batch_size=9"
     " --loss=squared_error",
     "augmentation crops and mirrors images", "leave --augment"),
    ("--dataset=own:short", "as many labels as images", "[40, 6] and labels [39]"),
    ("--dataset=mnist --data_dir={folder}", "no prepared mnist", "--data_dir"),
    ("--methods=impp", "--methods must be", "got 'impp'; did you mean 'imp'?"),
    ("--methods=", "--methods must be one or more, each one of", "got ()"),
    ("--methods=imp,imp", "--methods names one twice: imp, imp"),
    ("--methods=slimming", "slimming needs convolutions with batch norm"),
    ("--methods=jackpot", "as many weights in each layer as the mask it begins with"),
    ("--controls=shufle", "--controls must be", "'shufle'; did you mean 'shuffle'?"),
    ("--preset=paper", "--preset must be one of lth_lenet, ", "got 'paper'"),
    ("--warmup_steps=-1", "--warmup_steps must be", "got -1"),
    ("--warmup_steps=800", "--warmup_steps must end within a training, of 300 steps"),
    ("--label_noise=1.5", "--label_noise must be a share, in [0, 1]; got 1.5"),
    ("--draws=0", "--draws must be", "got 0"),
    ("--optimizer=adagrad", "--optimizer must be one of adam", "got 'adagrad'"),
    ("--normalization=none", "--normalization must be one of standard", "got 'none'"),
    ("--schedules_every=round", "--schedules_every must be one of epoch, step; got"),
    ("--dtype=float16", "--dtype must be one of float32, bfloat16; got 'float16'"),
    ("--prunable=biases", "--prunable must be one of kernels", "got 'biases'"),
    ("--prunable=convolutions", "prunable", "none of the 6 leaves"),
    ("--compare=first", "--compare must be one of early_stopping, last; got 'first'"),
    ("--imp.select=layers", "--imp.select must be one of global_top", "got 'layers'"),
    ("--imp.score=snipp", "--imp.score must be one of", "did you mean 'snip'?"),
    ("--imp.retrain=never", "--imp.retrain must be one of rewind", "got 'never'"),
    ("--continuous_sparsification.between=mine",
     "--continuous_sparsification.between must be one of paper, code; got 'mine'"),
    ("--methods=snip --snip.select=half", "--snip.select must be one of", "'half'"),
    # Flags that there are not, and values that are none.
    ("--sedes=4", "Unknown command line flag 'sedes'", "seeds"),
    ("--imp.rate=1", "Unknown command line flag 'imp.rate'"),
    ("--inp.density=1", "Unknown command line flag 'inp.density'"),
    ("--jackpot_restricted.density=0.1", "flag 'jackpot_restricted.density'"),
    ("--search_share=0.5", "Unknown command line flag 'search_share'"),
    ("--seeds=abc", "flag --seeds=abc: invalid literal"),
    ("--seeds=1.5", "flag --seeds=1.5: invalid literal"),
    ("--augment=perhaps", "flag --augment=perhaps"),
    ("--learning_rate=fast", "flag --learning_rate=fast"),
    ("--learning_rate_drops=1,x", "--learning_rate_drops takes floats, got ['1', 'x']"),
    ("--imp.density=0.5,x", "--imp.density takes floats, got ['0.5', 'x']"),
    ("imp", "not a flag: imp"),
    ("--imp.select=erk,equal", "--imp.select must be one of", "got 'erk,equal'"),
    ("--imp.density=0.5,0.5", "--imp.density needs different values; got (0.5, 0.5)"),
    ("--imp.density=", "--imp.density needs different values; got ()"),
    ("--model.width=3", "no --model.width; its options are: hidden, dropout, dtype"),
    ("--model.hidden=wide", "--model.hidden takes a tuple, got 'wide'"),
    ("--model.hidden=30,0", "hidden must be a whole number from 1; got 0"),
    ("--model.dropout=1.5", "dropout must be at least 0 and below 1; got 1.5"),
    ("--model=own:linen --model.widht=3", "no --model.widht; its options are: width"),
    ("--model=own:linen --model.width=wide", "--model.width takes a int, got 'wide'"),
    ("--dataset.test_size=100", "no --dataset.test_size; its options are: none"),
    # Numbers.
    ("--imp.density=1.3", f"--imp.density {FRACTION} 1.3"),
    ("--imp.density=0", f"--imp.density {FRACTION} 0.0"),
    ("--imp.density=0.5,1.3", f"--imp.density {FRACTION} 1.3"),
    ("--imp.density=nan", "--imp.density must be a finite number; got nan"),
    ("--imp.density=1e-9", "--imp.density=(1e-09,): a ticket would keep none of the"),
    ("--imp.density=0.01 --imp.select=global_top --rounds=9", "would keep none of the",
     "weights of fc_1/kernel; give a larger density, or fewer rounds"),
    ("--methods=snip --snip.density=1e-9", "--snip.density=(1e-09,): a ticket would"),
    ("--imp.rounds=0", f"--imp.rounds {MANY} 0"),
    ("--imp.rounds=99999", f"--imp.rounds {MANY} 99999"),
    ("--final_density=2", f"--final_density {FRACTION} 2.0"),
    ("--final_density=nan", f"--final_density {FRACTION} nan"),
    ("--final_density=0.2 --rounds=1", "--final_density needs --rounds from 2"),
    ("--rounds=0", f"--rounds {MANY} 0"),
    ("--epochs=0", f"--epochs {COUNT} 0"),
    ("--epochs=199999999", f"--steps {COUNT}", "which is beyond 2147483647"),
    ("--steps=-1", f"--steps {COUNT} -1"),
    ("--steps=99999999999", f"--steps {COUNT} 99999999999, which is beyond"),
    ("--steps=9 --epochs=2", "give --steps or --epochs, not both"),
    ("--search_epochs=0", f"--search_epochs {COUNT} 0"),
    ("--search_steps=99999999999", f"--search_steps {COUNT} 99999999999"),
    ("--search_steps=9 --search_epochs=2", "give --search_steps or --search_epochs"),
    ("--seeds=0", f"--seeds {MANY} 0"),
    ("--seeds=99999999", f"--seeds {MANY} 99999999"),
    ("--first_seed=-1",
     "--first_seed must be a whole number from 0 to 4294967295; got"),
    ("--first_seed=4294967296", "to 4294967295; got 4294967296"),
    ("--first_seed=4294967295 --seeds=2", "--first_seed must be", "to 4294967294; got"),
    *(
        (f"--lanes={value}", "--lanes must be a whole number from 1 to 65536, or auto",
         f"got '{value}'")
        for value in ("0", "all", "-1", "1.5", "999999999", "")
    ),
    ("--turns=0", f"--turns {MANY} 0"),
    ("--turns=99999999", f"--turns {MANY} 99999999"),
    ("--eval_every=0", f"--eval_every {COUNT} 0"),
    ("--batch_size=0", f"--batch_size {COUNT} 0"),
    ("--batch_size=5000", "--batch_size 5000 is more than the 1200 training images"),
    ("--validation=0", f"--validation {COUNT} 0"),
    ("--validation=3", "validation must be a whole number from 10 to 1436; got 3"),
    ("--validation=5000",
     "validation must be a whole number from 10 to 1436; got 5000"),
    ("--learning_rate=0", f"--learning_rate {POSITIVE} 0.0"),
    ("--learning_rate=nan", f"--learning_rate {POSITIVE} nan"),
    ("--learning_rate=1e39",
     f"--learning_rate {POSITIVE} 1e+39, which is inf in float32"),
    ("--learning_rate=1e-60", f"--learning_rate {POSITIVE} 1e-60, which is 0.0 in"),
    *(
        (f"--learning_rate_drops={value}",
         "--learning_rate_drops must be steps from 1, or fractions of a training", says)
        for value, says in (
            ("0", "got (0.0,)"),
            ("1.5", "got (1.5,)"),
            ("nan", "got (nan,)"),
            ("0.9,0.5,0.5", "got (0.9, 0.5, 0.5)"),
            ("0.5,0.5", "got (0.5, 0.5)"),
            ("90,30", "got (90.0, 30.0)"),
        )
    ),
    ("--learning_rate_drops=99999", "--learning_rate_drops must lie within a training"),
    ("--learning_rate_drops=0.9,20",
     "--learning_rate_drops must be in their order; got"),
    ("--weight_decay=-0.1", f"--weight_decay {NOT_NEGATIVE}", "got -0.1"),
    ("--weight_decay=1e39", f"--weight_decay {NOT_NEGATIVE}",
     "got 1e+39, which is inf"),
    ("--rewind_step=-1", f"--rewind_step {PLACE} -1"),
    ("--rewind_step=300", "--rewind_step 300 must lie before the end"),
    ("--rewind_epoch=15", "--rewind_epoch 15 must lie before the end"),
    ("--rewind_epoch=-1", f"--rewind_epoch {PLACE} -1"),
    ("--rewind_epoch=1 --rewind_step=1", "give --rewind_step or --rewind_epoch, not"),
    ("--save_seconds=-1", f"--save_seconds {NOT_NEGATIVE}", "got -1.0"),
    ("--save_seconds=nan", f"--save_seconds {NOT_NEGATIVE}", "got nan"),
    ("--margin=0", f"--margin {POSITIVE} 0.0"),
    *(
        (f"--{CS}.{name}={value}", f"--{CS}.{name} {says}")
        for CS in ("continuous_sparsification",)
        for name, value, says in (
            ("initial_logit", "inf", "must be a finite number; got inf"),
            ("penalty", "-1", "must be at least 0 and finite; got -1.0"),
            ("penalty", "1e39", "must be a finite number; got 1e+39, which is inf"),
            ("temperature", "1e39", "must be a finite number; got 1e+39, which is inf"),
            ("temperature", "0", "must be above 0 and finite; got 0.0"),
            ("logit_learning_rate", "0", "must be above 0 and finite; got 0.0"),
        )
    ),
    *(
        (f"--methods=gradual --gradual.{name}={value}", f"--gradual.{name} {says}")
        for name, value, says in (
            ("final_density", "2", f"{FRACTION} 2.0"),
            ("initial_density", "0", f"{FRACTION} 0.0"),
            ("every", "0", f"{COUNT} 0"),
            ("stop", "1.5", "must be a fraction of a round, up to 1.0, or a step"),
            ("stop", "-1", "must be a fraction of a round, up to 1.0, or a step"),
            ("stop", "400", "must be a fraction of a round, up to 1.0, or a step from"),
        )
    ),
    ("--methods=gradual --gradual.every=500", "stop must be at least every=500 steps"),
    ("--methods=gradual --gradual.final_density=1e-9", "would keep none of the"),
    *(
        (f"--methods=snip --snip.{name}={value}", f"--snip.{name} {says}")
        for name, value, says in (
            ("density", "0.5,1.5", f"{FRACTION} 1.5"),
            ("iterations", "0", f"{COUNT} 0"),
            ("temperature", "0", "must be above 0 and finite; got 0.0"),
        )
    ),
    *(
        (f"--methods={method} --{method}.{name}={value}", f"--{method}.{name} {says}")
        for method, name, value, says in (
            ("rigl", "density", "1.5", f"{FRACTION} 1.5"),
            ("rigl", "drop", "1.5", "must be a share, in [0, 1]; got 1.5"),
            ("set", "every", "0", f"{COUNT} 0"),
            ("iss", "penalty", "-1", "must be at least 0 and finite; got -1.0"),
            ("l0", "temperature", "0", "must be above 0 and finite; got 0.0"),
            ("l0", "low", "0.5", "must be below 0 and finite; got 0.5"),
            ("edge_popup", "density", "0", f"{FRACTION} 0.0"),
            ("fixed", "multiplier", "0", "must be above 0 and finite; got 0.0"),
        )
    ),
    # Paths, as a shell user writes them.
    ("--output_dir=", "--output_dir must be a folder, there or to be made; got ''"),
    ("--output_dir={folder}/file", "--output_dir must be a folder", "file is a file"),
    ("--output_dir={folder}/file/x", "--output_dir must be a folder", "file is a file"),
    (f"--output_dir={{folder}}/{'x' * 300}", "--output_dir must be", "name too long"),
    ("--output_dir=~nobody-here/x", "--output_dir must be a folder", "home directory"),
    ("--data_dir=/nowhere/at/all",
     "--data_dir must be a folder that is there; got '/no"),
    ("--data_dir={folder}/file", "--data_dir must be a folder that is there", "file'"),
    ("--cache_dir={folder}/file", "--cache_dir must be a folder", "file is a file"),
]  # fmt: skip
OTHERS = [
    ("continuous_sparsification"
     " --continuous_sparsification_parallel.initial_logit=0.1,nan",
     "--continuous_sparsification_parallel.initial_logit must be a finite number; got"),
    ("continuous_sparsification --continuous_sparsification_parallel.rounds=0",
     f"--continuous_sparsification_parallel.rounds {MANY} 0"),
    ("continuous_sparsification --batch_statistics=free", "flag 'batch_statistics'"),
    ("pruning --methods=imp_continued", "--methods must be", "got 'imp_continued'"),
    ("pruning --imp_continued.density=0.5", "flag 'imp_continued.density'"),
    ("pruning --rewind_step=3", "Unknown command line flag 'rewind_step'"),
    ("pruning --search_share=1", "--search_share must be between 0 and 1; got 1.0"),
    ("pruning --search_share=nan", "--search_share must be between 0 and 1; got nan"),
    ("pruning --steps=1", "--steps must be a whole number from 2; got 1"),
    ("pruning --gradual.final_density=0.5,1.5",
     f"--gradual.final_density {FRACTION} 1.5"),
    ("pruning --gradual.stop=9999", "--gradual.stop must be a fraction", "got 9999"),
    ("pruning --one_shot.density=0.5,0.5", "--one_shot.density needs different values"),
    ("pruning --soft_threshold.initial_logit=", "needs different values; got ()"),
    ("pruning --soft_threshold.initial_logit=inf",
     "--soft_threshold.initial_logit must be a finite number; got inf"),
    ("pruning --l0.penalty=-1,1", f"--l0.penalty {NOT_NEGATIVE}", "got -1.0"),
    ("pruning --l0.initial_logit=nan", "--l0.initial_logit must be a finite number"),
    ("pruning --methods=slimming --slimming.density=0",
     f"--slimming.density {FRACTION}"),
    ("pruning --methods=slimming --slimming.penalty=-1",
     f"--slimming.penalty {NOT_NEGATIVE}", "got -1.0"),
    ("instability --controls=shuffle", "--controls needs reorder"),
    ("instability --points=1", "--points must be a whole number", "1"),
    ("instability --images=0", "--images must be a whole number", "0"),
    ("instability --draws=0", "--draws must be a whole number", "0"),
    ("instability --mask_densities=0.5,2", "--mask_densities", "2"),
    ("swaps --images=0", "--images must be a whole number", "0"),
    ("swaps --magnitude.density=0", "--magnitude.density must be", "0"),
    ("jackpots --jackpot.select=layer", "--jackpot.select must be one of", "'layer'"),
    ("jackpots --jackpot.density=0.1,1.3", f"--jackpot.density {FRACTION} 1.3"),
    ("jackpots --jackpot.density=0.1,0.1", "--jackpot.density needs different values"),
    ("jackpots --jackpot.density=1", "--jackpot.density=(1.0,): a jackpot has as many"),
    ("jackpots --jackpot.density=1e-9", "--jackpot.density=(1e-09,): a ticket would"),
    ("jackpots --jackpot_restricted.restriction=linear",
     "--jackpot_restricted.restriction must be one of none, quartic, cosine; got"),
    ("jackpots --tune_epochs=1 --tune_steps=4", "give --tune_steps or --tune_epochs"),
    ("jackpots --tune_steps=-1", f"--tune_steps {PLACE} -1"),
    ("jackpots --tune_learning_rate=0", f"--tune_learning_rate {POSITIVE} 0.0"),
    ("jackpots --batch_statistics=kept",
     "--batch_statistics must be one of free, froz"),
    ("jackpots --jackpot.pruned_score=1",
     "--jackpot.pruned_score must be between -1 and 1; got 1.0"),
    ("jackpots --jackpot.score_learning_rate=0",
     f"--jackpot.score_learning_rate {POSITIVE} 0.0"),
    ("jackpots --jackpot.score_decay=-1", f"--jackpot.score_decay {NOT_NEGATIVE}"),
    ("jackpots --jackpot.score_schedule=linear",
     "--jackpot.score_schedule must be one of cosine, constant; got 'linear'"),
    ("jackpots --controls=shuffle", "Unknown command line flag 'controls'"),
    ("jackpots --pretrained=nowhere.safetensors",
     "no names in PyTorch are known for 'lenet_300_100', only for"),
    ("jackpots --model=vgg_19 --pretrained=nowhere.safetensors", "nowhere.safetensors"),
    ("supermasks --methods=learnt", "--methods must be", "did you mean 'learned'?"),
    ("supermasks --large_final.density=1.3", f"--large_final.density {FRACTION} 1.3"),
    ("supermasks --large_final.select=half", "--large_final.select must be one of"),
    ("supermasks --edge_popup.density=0.5,0.5", "--edge_popup.density needs different"),
    ("supermasks --edge_popup.scale_fan=fan", "--edge_popup.scale_fan must be one of"),
    ("supermasks --edge_popup.scale_fan=code --edge_popup.density=1",
     "--edge_popup.density must be below 1 where scale_fan is code", "got 1.0"),
    ("supermasks --learned.read=mean",
     "--learned.read must be one of sample, threshold"),
    ("supermasks --tune_steps=3", "Unknown command line flag 'tune_steps'"),
    ("report --output_dir={folder}/none",
     "--output_dir must be a folder that is there"),
    ("report --output_dir={folder} --margin=0", f"--margin {POSITIVE} 0.0"),
    ("report --output_dir={folder}", "config.json"),
    ("benchmark --sections=lenett", "--sections must be", "did you mean 'lenet'?"),
    ("benchmark --sections=", "--sections must be one or more", "got ()"),
    ("benchmark --seeds=0", "--seeds must be one or more, each a whole number",
     "got 0"),
    ("benchmark --repeats=0", f"--repeats {MANY} 0"),
    ("benchmark --limit=-1", f"--limit {NOT_NEGATIVE}", "got -1.0"),
    ("benchmark --output=/nowhere/rows.json",
     "--output must be a file in a folder that"),
]  # fmt: skip
COMMANDS = [
    *(
        Line(" ".join(["ticket_search", "--dataset=digits" * ("dataset=" not in typed),
                       typed]), says)
        for typed, *says in TICKETS
    ),
    *(
        Line(typed + " --dataset=digits" * (typed[:3] not in ("rep", "ben")), says)
        for typed, *says in OTHERS
    ),
]  # fmt: skip
