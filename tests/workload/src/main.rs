//! What the sample pods run: one static binary, one subcommand for each way to behave.
//!
//! It runs as a container's PID 1, where the kernel drops a SIGTERM that nobody handles: so each subcommand says
//! by itself what SIGTERM does. SIGKILL always works.

mod busy;
mod fill;
mod fork_bomb;
mod growth;
mod hog;
mod quiet;
mod sigterm;

use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;

const USAGE: &str = "\
oomlet-workload SUBCOMMAND [OPTIONS]

  idle          [--mib N]                hold N MiB (default 1) and wait for SIGTERM
  hog           grow anonymous memory; see below
  page-cache    --file P --mib N [--passes K]       write N MiB to P, then read it over and over: reclaimable memory
  tmpfs-fill    --file P --mib N [--rate-mib-s R] [--hold-ms M]   fill a file on a tmpfs: memory that cannot be reclaimed
  dirty         --file P --mib N [--rate-mib-s R]   fill a file on a disk without a sync, and end
  fork-bomb     [--mib N] [--rate-mib-s R] [--max-mib M]   ever more processes of N MiB each, until M MiB were started
  fork-tree     [--depth D] [--width W] [--mib N]   a tree of processes, N MiB each
  exit          [--code N] [--after-ms M] [--mib N]  end by itself
  fault-loop    [--seconds S]            take page faults as fast as possible; prints faults per second

  what ends by itself and gives back what it took:
  burst         [--max-mib N] [--hold-ms M] [--seconds S]   as fast as it can; S seconds more without it
  churn         [--jobs J] [--mib N] [--seconds S]   short processes, J at a time, as a build has them
  heap          [--max-mib N] [--seconds S]   grow in saw teeth to a plateau of N MiB
  mmap-thrash   --file P --mib N [--seconds S]   touch the pages of a mapped file in no order

  hog options:
    --rate-mib-s N       how fast to grow (default 50)
    --start-mib N        held before the growth (default 0)
    --start-rate-mib-s N how fast to grow to --start-mib (default: at once)
    --max-mib N          where the growth ends (default: never)
    --burst              grow as fast as memory can be touched, instead of at a rate
    --threads N          share the growth among N threads (default 1)
    --hold-ms N          free everything N ms after --max-mib was reached, then idle (default: keep it)
    --sigterm-ms N       how long the SIGTERM handler works before it exits 0 (default 500)
    --ignore-sigterm     go on as if there was no SIGTERM
    --leak-after-sigterm keep growing while the handler works
    --mark PATH          the handler adds `sigterm received MS` and `sigterm handled MS` to PATH

  tmpfs-fill, dirty and fork-bomb know --sigterm-ms, --leak-after-sigterm and --mark too. What ends by itself adds `done MS`
  to its --mark.
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("oomlet-workload: {error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, lexopt::Error> {
    let mut args = lexopt::Parser::from_env();
    let name = match args.next()? {
        Some(Value(name)) => name.string()?,
        Some(Short('h') | Long("help")) => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(other.unexpected()),
        None => return Err("which subcommand?".into()),
    };
    match name.as_str() {
        "hog" => hog::run(hog::Options::parse(&mut args)?),
        "idle" => {
            let mut mib = 1;
            each(&mut args, |option, args| match option {
                "mib" => number(args).map(|n| mib = n),
                other => Err(unknown(other)),
            })?;
            quiet::idle(mib)
        }
        "page-cache" => {
            let (mut file, mut mib, mut passes, mut mark) = (None, 16, None, None::<PathBuf>);
            each(&mut args, |option, args| match option {
                "file" => args.value().map(|v| file = Some(v.into())),
                "mib" => number(args).map(|n| mib = n),
                "passes" => number(args).map(|n| passes = Some(n)),
                "mark" => args.value().map(|v| mark = Some(v.into())),
                other => Err(unknown(other)),
            })?;
            quiet::page_cache(file.ok_or("--file is needed")?, mib, passes, mark.as_deref())
        }
        "tmpfs-fill" => fill::run(fill::Options::parse(&mut args, None)?),
        "dirty" => fill::run(fill::Options::parse(&mut args, Some(0))?),
        "fork-bomb" => fork_bomb::run(fork_bomb::Options::parse(&mut args)?),
        "burst" => busy::burst(busy::Options::parse(&mut args)?),
        "churn" => busy::churn(busy::Options::parse(&mut args)?),
        "heap" => busy::heap(busy::Options::parse(&mut args)?),
        "mmap-thrash" => busy::mmap_thrash(busy::Options::parse(&mut args)?),
        "fork-tree" => {
            let (mut depth, mut width, mut mib) = (2, 2, 1);
            each(&mut args, |option, args| match option {
                "depth" => number(args).map(|n| depth = n),
                "width" => number(args).map(|n| width = n),
                "mib" => number(args).map(|n| mib = n),
                other => Err(unknown(other)),
            })?;
            quiet::fork_tree(depth, width, mib)
        }
        "exit" => {
            let (mut code, mut after_ms, mut mib) = (0, 0, 0);
            each(&mut args, |option, args| match option {
                "code" => number(args).map(|n| code = n),
                "after-ms" => number(args).map(|n| after_ms = n),
                "mib" => number(args).map(|n| mib = n),
                other => Err(unknown(other)),
            })?;
            quiet::exit(code, after_ms, mib)
        }
        "fault-loop" => {
            let mut seconds = 1;
            each(&mut args, |option, args| match option {
                "seconds" => number(args).map(|n| seconds = n),
                other => Err(unknown(other)),
            })?;
            growth::fault_loop(seconds)
        }
        other => return Err(format!("there is no subcommand {other:?}").into()),
    }
    .map_err(|error| format!("{name}: {error}").into())
}

/// Calls `take` with the name of each long option that is left; `take` fetches its value.
fn each(
    args: &mut lexopt::Parser,
    mut take: impl FnMut(&str, &mut lexopt::Parser) -> Result<(), lexopt::Error>,
) -> Result<(), lexopt::Error> {
    while let Some(arg) = args.next()? {
        let Long(name) = arg else { return Err(arg.unexpected()) };
        let name = name.to_owned();
        take(&name, args)?;
    }
    Ok(())
}

fn number<T: std::str::FromStr>(args: &mut lexopt::Parser) -> Result<T, lexopt::Error>
where
    T::Err: Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
{
    args.value()?.parse()
}

fn unknown(option: &str) -> lexopt::Error {
    format!("there is no option --{option} here").into()
}
