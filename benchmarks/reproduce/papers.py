"""What is reproduced: the tables of the papers, their systems and recipes, and what they report.

Images a second are rough, of two cores of an AMD EPYC, and only for the estimate of how long it will take.
"""

from collections.abc import Mapping

from benchmarks.reproduce.paper_table import Claim, Column, Line, Recipe, System, Target

_AGE_GROUP = {"age": "age_group/accuracy", "balanced": "age_group/balanced_accuracy"}
_GENDER = {"gender": "gender/accuracy", "gender_balanced": "gender/balanced_accuracy"}
_FACES = {"gender": "gender/accuracy", **_AGE_GROUP}
_SMOKE = {"dataset.image_size": 32, "train.batch_size": 16, "train.steps_per_dispatch": 2, "train.epochs": 1.0}
_SMALL = {"model.backbone": "small_cnn", "model.variant": "thin"}


def _faces(name: str, lines: tuple[Line, ...], full: str, cpu: str, rate: tuple[float, int], data: str = "") -> System:
    """Returns a system that is trained on UTKFace, its net named as itself."""
    return System(name, name, lines, Recipe(full), Recipe(cpu), 14584, rate, data)


def _adience_folds(name: str, line: Line, full: Recipe | None, cpu: Recipe | None, rate: tuple[float, int]) -> System:
    """Returns a system that is trained on Adience in five folds."""
    return System(name, name, (line,), full, cpu, 13100, rate, folds=True)


def _table2() -> Target:
    # Net, title, published age group and gender, parameters, time; images/s at 32x32 on two cores.
    nets = (
        ("alexnet", "AlexNet", 0.5596, 0.8510, "61 M", "398", 550.0),
        ("vgg11", "VGG11", 0.5706, 0.8363, "133 M", "90", 230.0),
        ("resnet18", "ResNet18", 0.5860, 0.8740, "11 M", "120", 730.0),
        ("densenet161", "DenseNet161", 0.5922, 0.8728, "26.6 M", "150", 110.0),
        ("ours", "ours (variant `a`)", 0.6134, 0.8867, "11.5 M", "75", 430.0),
    )
    systems = []
    for net, title, age, gender, parameters, time, rate in nets:
        published: dict[str, float | str] = {"age": age, "gender": gender, "parameters": parameters, "time": time}
        weighted = {"age": 0.5285} if net == "ours" else {}
        for suffix, label, numbers in (("", "", published), ("_weighted", ", weighted", weighted)):
            name = net + suffix
            systems.append(
                System(
                    name,
                    net,
                    (Line(name, title + label, _FACES, numbers),),
                    Recipe(f"utkface_baselines.py:{name}"),
                    Recipe(f"utkface_baselines.py:{name}_cpu"),
                    14584,
                    (rate, 32),
                )
            )
    others = [net for net, *_ in nets[:-1]]
    return Target(
        name="table2",
        title="UTKFace, the comparison of Uraimov & Yoo: five nets, plain and with class weights",
        source="Uraimov & Yoo (2022), table 2",
        systems=tuple(systems),
        columns={"age": Column("age group"), "balanced": Column("age group, balanced"), "gender": Column("gender")},
        claims=(
            *(Claim("ours", net, column) for column in ("age", "gender") for net in others),
            *(Claim(f"{net}_weighted", net, "age") for net, *_ in nets),
            *(Claim(f"{net}_weighted", net, "balanced") for net, *_ in nets),
        ),
        protocols=("disjoint",),
        smoke={**_SMOKE, **_SMALL, "dataset.synthetic": 160},
        smoke_nets=("ours",),
        cannot=(
            "The table exactly: by its 24,104 images it is of the in-the-wild release; it does not name its grouping "
            "of ages, who is in which part, whether the known nets were pretrained or how large their input was, and "
            "says nothing of repeats. Here it is the aligned release, the grouping is named with every metric, and all "
            "nets have one recipe.",
            "Its column of times: it has no unit, and 398 for AlexNet beside 90 for VGG11, which has eleven times the "
            "multiply-adds, cannot be of one set-up.",
            "Its 26.6 million parameters of DenseNet161: no head for eight age groups and two genders gives them "
            "(26,494,090 with ten outputs).",
            "Its net exactly: six convolutions and 11.5 million parameters fit hundreds of nets; `small_cnn` has four "
            "readings, of which variant `a` stands in the table.",
        ),
    )


def _router() -> Target:
    classes = {**_GENDER, "one_off": "age_group/one_off", **_AGE_GROUP}
    ways = (
        ("true", "routed by the labelled gender (no system knows it)"),
        ("predicted", "routed by the predicted gender"),
        ("soft", "mixture of both age nets by P(gender)"),
    )
    routed = tuple(
        Line(
            f"routed_{way}",
            title,
            {
                "gender": "gender/accuracy",
                "gender_balanced": "gender/balanced_accuracy",
                "age": f"age_group_{way}/accuracy",
                "balanced": f"age_group_{way}/balanced_accuracy",
                "one_off": f"age_group_{way}/one_off",
            },
        )
        for way, title in ways
    )
    groups = "24 age classes, gender"
    regression = Line(
        "years",
        "`cnn180`, age by L1 regression",
        {**_GENDER, "mae": "age/mae"},
        {"gender": 0.89, "mae": 6.7},
        "Imamdin et al. (2025), table 1, validation: val_age_out_loss, val_gender_out_accuracy",
    )
    one_net = Line("age24", "24 classes of five years, one net", classes)
    shared = Line("shared", "one shared VGG16 of as many parameters", classes)
    precision = 'Imamdin et al. (2025), section 3.5, "precision", on a data set of another origin'
    four = Line("four", "`four`: four convolutions, one sigmoid node", _GENDER, {"gender": 0.8809}, precision)
    three = Line("three", "`three`: three with batch normalisation, dropout, two nodes", _GENDER)
    systems = (
        _faces("years", (regression,), "utkface_years.py", "utkface_years.py:cpu", (199.0, 64), "years, gender"),
        _faces("age24", (one_net,), "utkface_age24.py", "utkface_age24.py:cpu", (239.0, 64), groups),
        _faces("routed", routed, "utkface_routed.py", "utkface_routed.py:cpu", (67.0, 32), groups),
        _faces("shared", (shared,), "utkface_routed.py:shared", "utkface_routed.py:cpu_shared", (104.0, 32), groups),
        _faces("four", (four,), "utkface_gender.py:four", "utkface_gender.py:four_cpu", (884.0, 48), "gender"),
        _faces("three", (three,), "utkface_gender.py:three", "utkface_gender.py:three_cpu", (1002.0, 48), "gender"),
    )
    return Target(
        name="router",
        title="UTKFace, the systems of Imamdin et al.: age by regression, and two age nets behind a gender net",
        source="Imamdin et al. (2025), sections 3.3 to 3.6 and table 1",
        systems=systems,
        columns={
            "age": Column("24 classes"),
            "balanced": Column("24 classes, balanced"),
            "one_off": Column("24 classes, one-off"),
            "mae": Column("MAE, years", 2),
            "gender": Column("gender"),
            "gender_balanced": Column("gender, balanced"),
        },
        claims=(
            Claim("routed_predicted", "shared", "age"),
            Claim("routed_soft", "shared", "age"),
            Claim("routed_predicted", "routed_true", "age"),
            Claim("four", "three", "gender"),
        ),
        protocols=("disjoint",),
        smoke={**_SMOKE, "dataset.synthetic": 160, "model.width": 0.05},
        smoke_nets=("routed",),
        data_title="predicted",
        cannot=(
            "A result of the routed system of Imamdin et al.: the paper gives none; its table is of another, single "
            "net. The system is that of Raman et al. (2022), who report more than 0.85 for either age net and 0.80 "
            "routed, on coarse age groups that their abstract does not name.",
            'Their "92 % age": no age accuracy stands anywhere in the tables; 92.5 % is the gender accuracy in '
            "training, 5.7 and 6.7 are mean absolute errors in years in training and validation.",
            "Their face crops: neither the parameters of the Haar cascade nor the quality of the files that the 5 kB "
            "filter looks at are given.",
        ),
    )


_TEN_SPEAKERS = (
    "With EmoDB's ten folders as classes `disjoint` is refused: each class has one speaker, and `paper` measures how "
    "well ten known speakers are distinguished, not how old anybody sounds."
)


def _voice() -> Target:
    accuracy = {"accuracy": "gender/accuracy", "balanced": "gender/balanced_accuracy"}
    joint = {"accuracy": "class_name/accuracy", "balanced": "class_name/balanced_accuracy"}
    of_emodb = {"dataset.config": "emodb"}
    gender = {
        **of_emodb,
        "heads.class_name.weight": 0.0,
        "heads.gender.weight": 1.0,
        "split.stratify": "gender",
        "evaluate.select": "gender/accuracy",
    }
    systems = []
    for net, file, title, published, paper, rate in (
        ("vgg16", "voice_vgg16.py", "VGG16, global max pooling", 0.99, "first paper", 60.0),
        ("resnet50", "voice_resnet.py", "ResNet-50, global max pooling", 0.96, "second paper", 70.0),
    ):
        where = f"Mansour & Abu-Naser (2022), {paper}, section 9.3: test, 39 classes of another data set"
        classes = Line(f"{net}_classes", title, joint, {"accuracy": published}, where)
        folders = (Recipe(file, of_emodb), Recipe(f"{file}:emodb_classes"), 321, (rate, 48), "EmoDB, its ten folders")
        systems.append(System(classes.key, net, (classes,), *folders, protocols=("paper",), note=_TEN_SPEAKERS))
        line = Line(f"{net}_gender", title, accuracy)
        genders = (Recipe(file, gender), Recipe(f"{file}:emodb"), 321, (rate, 48), "EmoDB, gender")
        systems.append(System(line.key, net, (line,), *genders))
    small = [
        ("emodb_classes", "EmoDB, its ten folders", 321, joint),
        ("emodb", "EmoDB, gender, five folds", 364, accuracy),
        ("ravdess", "RAVDESS, gender, five folds", 408, accuracy),
    ]
    for argument, data, examples, metrics in small:
        name, recipe = f"small_{argument}", Recipe(f"voice_small.py:{argument}")
        given = (name, name, (Line(name, "thin net", metrics),), recipe, recipe, examples, (250.0, 64), data)
        if argument == "emodb_classes":
            systems.append(System(*given, protocols=("paper",), note=_TEN_SPEAKERS))
        else:
            systems.append(System(*given, folds=True))
    return Target(
        name="voice",
        title="Voices: leaky and speaker-disjoint, side by side",
        source="Mansour & Abu-Naser (2022), both papers",
        systems=tuple(systems),
        columns={"accuracy": Column("accuracy", 4), "balanced": Column("balanced accuracy", 4)},
        claims=(Claim("vgg16_classes", "resnet50_classes", "accuracy"),),
        protocols=("paper", "disjoint"),
        smoke={
            **_SMOKE,
            **_SMALL,
            "model.pooling": "default",
            "model.pretrained": "",
            "dataset.config": "",
            "dataset.synthetic": 256,
        },
        smoke_nets=("small_emodb",),
        data_title="learnt from",
        cannot=(
            "The 0.99 and 0.96 of Mansour & Abu-Naser: nobody could identify their data set (8,380 recordings, 39 "
            "classes of gender and age), and the numbers are of a random split of recordings, so that whoever has "
            "several recordings is in training and in testing.",
            "Their spectrograms: no parameter of them is given, neither window nor scale nor colours nor the sampling "
            "rate.",
            "The depth of their ResNet (50 is taken), its augmentation, and the precision, recall and F1 that they "
            "name: no number stands in the text.",
        ),
    )


def _adience() -> Target:
    metrics = {"one_off": "age_group/one_off", **_FACES}
    report = {"age": 0.8351, "gender": 0.7951}
    where = (
        'CDAC report, "val_acc": a random part of what is learnt from; which of both trainings it is of is not stated'
    )
    small = {"dataset.image_size": 64}
    levi_hassner = Line(
        "levi_hassner",
        "Levi & Hassner's net",
        metrics,
        {"age": 0.507, "one_off": 0.847, "gender": 0.868},
        "Levi & Hassner (2015): mean over the folds, ± 0.051, 0.022 and 0.014",
    )
    thin = Line("thin", "thin net", metrics)
    ensemble = Line("ensemble", "attention and residual net, averaged", metrics)
    attention = (Recipe("adience_attention.py"), Recipe("adience_attention.py:cpu"))
    systems = [_adience_folds("levi_hassner", levi_hassner, Recipe("adience_cnn.py"), None, (60.0, 227))]
    for name, epochs in (("epochs20", 20), ("epochs40", 40)):
        config, line = f"adience_cnn.py:{name}", Line(name, f"plain CNN, {epochs} epochs", metrics, report, where)
        systems.append(_adience_folds(name, line, Recipe(config), Recipe(config, small), (70.0, 128)))
    systems.append(_adience_folds("thin", thin, None, Recipe("adience_cnn.py:cpu"), (510.0, 64)))
    systems.append(_adience_folds("ensemble", ensemble, *attention, (60.0, 64)))
    return Target(
        name="adience",
        title="Adience in five folds",
        source="a report on Adience (CDAC), and Levi & Hassner (2015), whose data and folds it names",
        systems=tuple(systems),
        columns={
            "age": Column("age group"),
            "balanced": Column("age group, balanced"),
            "one_off": Column("age group, one-off"),
            "gender": Column("gender"),
        },
        claims=(Claim("epochs40", "epochs20", "age"), Claim("ensemble", "thin", "age")),
        protocols=("paper", "disjoint"),
        smoke={**_SMOKE, **_SMALL, "dataset.synthetic": 250},
        smoke_nets=("thin",),
        cannot=(
            "Any result on Adience's photographs: they were not available. The results here are of synthetic images "
            "with the labels, users and subjects of the published fold files.",
            "The report's 0.8351 for age as a result in five folds: it is of a random part of the training data, with "
            "subjects in common; published results in five folds lie between 0.45 and 0.69.",
            "The report's attention ensemble: its abstract has one, its body describes a plain CNN, and no number is "
            "of it.",
        ),
    )


TARGETS: Mapping[str, Target] = {target.name: target for target in (_table2(), _router(), _voice(), _adience())}
"""By the name of the command."""
