"""`cores train`: train a model from a preset, or resume a run."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cores_cli import console
from cores_cli.interrupts import EXIT_CODES, interrupts
from cores_cli.options import DataRootOption, DeviceOption

if TYPE_CHECKING:
    from cores_core.config import Config
    from cores_core.train.start import TrainJob

_SMALL, _PAPER = "tiny", "cores-7b"
_MLLM_HELP = "Base multimodal LLM: a folder or a hub id."
_SAM_HELP = "Base SAM: vit_h|l|b, sam2.1-tiny|small|base-plus|large, sam3, a .pth, a folder or a hub id."
_PRESET_HELP = f"Preset name or YAML file. Default: {_PAPER} with --gpus or --hostfile, else {_SMALL}."
_OUTPUT_HELP = "Folder of the run. Default: runs/PRESET."
PresetOption = Annotated[str | None, typer.Option("--preset", help=_PRESET_HELP, show_default=False)]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help=_OUTPUT_HELP, show_default=False)]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="MODEL", help="Initialise from the weights of this model.")
]
MllmOption = Annotated[str | None, typer.Option("--mllm", help=_MLLM_HELP)]
SamOption = Annotated[str | None, typer.Option("--sam", help=_SAM_HELP)]
VariantOption = Annotated[
    list[str] | None,
    typer.Option("--variant", metavar="NAME", help="A row of the paper's ablation tables: lisa, c1-gt, ..."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: train.steps=2000.")
]
GpusOption = Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs of each machine; 0 for the CPU.")]
ProcessesOption = Annotated[
    int, typer.Option("--processes", min=1, help="CPU processes that share the images of each step.")
]
NodesOption = Annotated[int, typer.Option("--nodes", min=1, help="Machines, with --hostfile.")]
HostfileOption = Annotated[Path | None, typer.Option("--hostfile", help="Hostfile of DeepSpeed: NAME slots=8.")]
ZeroOption = Annotated[int | None, typer.Option("--zero", min=0, max=3, help="ZeRO stage of DeepSpeed.")]
CacheOption = Annotated[
    str | None,
    typer.Option("--cache-embeddings", metavar="DIR", help="Cache the image embeddings of frozen encoders here."),
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Show what would train, the data and the memory; train nothing.")
]


def train(
    preset: PresetOption = None,
    data_root: DataRootOption = Path("data"),
    output: OutputOption = None,
    resume: ResumeOption = False,
    start_from: FromOption = None,
    mllm: MllmOption = None,
    sam: SamOption = None,
    variants: VariantOption = None,
    settings: SetOption = None,
    gpus: GpusOption = None,
    processes: ProcessesOption = 1,
    nodes: NodesOption = 1,
    hostfile: HostfileOption = None,
    zero: ZeroOption = None,
    cache_embeddings: CacheOption = None,
    device: DeviceOption = "auto",
    plan: PlanOption = False,
) -> None:
    """Train a model.

    With --gpus the default is CoReS-7B of the paper, else the small model `tiny`. On several GPUs, or in several
    processes, DeepSpeed shares the images of each step; the result does not depend on their number. Ctrl-C saves a
    checkpoint and exits with code 130, SIGTERM with 143; --resume continues exactly there. With --resume the run keeps
    the settings of its config.yaml, whatever --preset says; --set still applies, and changes are shown and recorded.
    Under torchrun, or another launcher that sets RANK and WORLD_SIZE, each process joins its group.
    """
    from cores_core.runtime import group_from_environment, resolve_device
    from cores_core.settings import load_config
    from cores_core.train.start import TrainJob

    chosen = preset or (_PAPER if gpus or hostfile is not None else _SMALL)
    output = output or Path("runs") / Path(chosen).stem
    own, group = output / "config.yaml", group_from_environment()
    source = own if resume and own.is_file() else chosen
    named = {"train.start_from": start_from, "base.mllm": mllm, "base.sam": sam, "engine.zero_stage": zero}
    named |= {"train.embedding_cache": cache_embeddings}
    given = [f"{key}={value}" for key, value in named.items() if value is not None]
    config = load_config(source, (*given, *(settings or ())), tuple(variants or ()))
    if gpus and not plan and hostfile is None and group is None:
        _check_gpus(gpus)
    place = resolve_device("cpu" if plan or gpus == 0 or hostfile is not None else "cuda" if gpus else device)
    job = TrainJob(config=config, data_root=data_root, output=output, device=place)
    count = gpus or processes
    if source == own and preset is not None:
        _say_kept_settings(preset, tuple(variants or ()), config)
    if plan or (gpus and group is None and not resume):
        _show_plan(str(source), job, count * nodes)
    if plan:
        return
    if hostfile is not None:
        raise typer.Exit(_launch_on_machines(hostfile, nodes, gpus or 1, [] if preset else ["--preset", chosen]))
    if group is None or group.leads:
        _say_what_trains(str(source), job, is_default=preset is None and source == _SMALL)
    _run(job, resume, count)


def _check_gpus(wanted: int) -> None:
    """Compare the GPUs that were asked for with those of this machine."""
    from cores_core.errors import ConfigError
    from cores_core.runtime import count_gpus, resolve_device

    found = count_gpus()
    if wanted <= found:
        return
    if found:
        hint = f"use --gpus {found}: the result does not depend on their number"
    else:
        hint = (
            f"here `cores train` trains the small preset `{_SMALL}` on {resolve_device().type}; "
            f"`cores train --preset {_PAPER} --plan` shows what the paper's model takes"
        )
    raise ConfigError(f"--gpus {wanted}: this machine has {found} CUDA GPUs", hint=hint)


def _say_what_trains(source: str, job: "TrainJob", is_default: bool) -> None:
    config, train = job.config, job.config.train
    what = f"{train.steps} steps of {train.global_batch_size} images of {', '.join(config.data)} in {job.data_root}"
    console.say(f"training {source} on {job.device.type}: {what}; output: {job.output}")
    if is_default:
        console.say(
            f"`{_SMALL}` is a small model for PartWorld's drawn scenes; for photographs: cores train --gpus N, or "
            "--preset with a name of docs/models.md"
        )


def _say_kept_settings(preset: str, variants: tuple[str, ...], run: "Config") -> None:
    from cores_core.settings import load_config
    from cores_core.train.start import compare_with_preset

    kept = compare_with_preset(load_config(preset, (), variants), run)
    if kept:
        console.say(f"note: the run keeps its settings, which differ from those of {preset} (there -> here):", "yellow")
    for difference in kept:
        console.say(f"    {difference}")


def _run(job: "TrainJob", resume: bool, processes: int) -> None:
    """Train, in a group of our own or in one that a launcher has started, and say how it ended."""
    from cores_cli.commands.train_callback import TerminalCallback
    from cores_core.runtime import group_from_environment, set_up_cpu
    from cores_core.train.launch import train

    set_up_cpu()
    group, wanted = group_from_environment(), job.config.train.steps
    with console.progress_bar() as progress, interrupts.saving():
        steps = train(job, [TerminalCallback(progress, job.config.train.log_every)], resume, processes)
    if group is None or group.leads:
        how = f"done after {steps} steps: {job.output}"
        if steps < wanted:
            how = f"stopped after step {steps}; continue with: cores train --resume --output {job.output}"
        console.say(how)
    if steps < wanted:
        raise typer.Exit(EXIT_CODES[interrupts.number or signal.SIGINT])


def _show_plan(preset: str, job: "TrainJob", processes: int) -> None:
    """Show the parts that train, the run's settings and the memory of each process, without loading weights."""
    from cores_core.model.plan import describe_plan
    from cores_core.train.start import describe_run, plan_memory

    checkpoint, memory = plan_memory(job, processes)
    console.show_memory(f"training {preset}", memory)
    rows = describe_plan(checkpoint, memory) | describe_run(job, processes)
    console.show_text_table("run", ("what", "value"), list(rows.items()))


def _launch_on_machines(hostfile: Path, nodes: int, gpus: int, further: list[str]) -> int:
    """Start this command on every machine, without --nodes and --hostfile, with further options."""
    from cores_core.errors import LaunchError
    from cores_core.train.launch import hostfile_command

    if not hostfile.is_file():
        raise LaunchError(f"no such hostfile: {hostfile}", hint="it has a line for each machine: NAME slots=8")
    command = hostfile_command(hostfile, nodes, gpus, [*_without_places(sys.argv[1:]), *further])
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        raise LaunchError(f"cannot start: {command[0]} ({error.strerror})", hint="pip install deepspeed") from error
    with interrupts.saving():
        return _wait_for(process)


def _wait_for(process: "subprocess.Popen[bytes]") -> int:
    """The exit code of a launcher; a signal that this process receives is sent on to it."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.5)
            return code if interrupts.number is None else EXIT_CODES[interrupts.number]
        if interrupts.number is not None:
            process.send_signal(interrupts.number)
            process.wait()


def _without_places(arguments: list[str]) -> list[str]:
    """The arguments without --nodes, --hostfile and their values."""
    kept, skip = [], False
    for argument in arguments:
        name, given, _ = argument.partition("=")
        is_place = name in ("--nodes", "--hostfile")
        if not skip and not is_place:
            kept.append(argument)
        skip = not skip and is_place and not given
    return kept
