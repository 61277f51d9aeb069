//! What the sample pods run: one static binary, one subcommand for each way to behave.
//!
//! It runs as a container's PID 1, where the kernel drops a SIGTERM that nobody handles: so each subcommand says
//! by itself what SIGTERM does. SIGKILL always works.

mod growth;
mod hog;
mod quiet;
mod sigterm;

use std::process::ExitCode;

use lexopt::prelude::*;

const USAGE: &str = "\
oomlet-workload SUBCOMMAND [OPTIONS]

  idle          [--mib N]                hold N MiB (default 1) and wait for SIGTERM
  hog           grow anonymous memory; see below
  page-cache    --file P --mib N         write N MiB to P, then read it over and over: reclaimable memory
  tmpfs-fill    --file P --mib N [--rate-mib-s R]   fill a file on a tmpfs: memory that cannot be reclaimed
  fork-tree     [--depth D] [--width W] [--mib N]   a tree of processes, N MiB each
  exit          [--code N] [--after-ms M]           end by itself
  fault-loop    [--seconds S]            take page faults as fast as possible; prints faults per second

  hog options:
    --rate-mib-s N       how fast to grow (default 50)
    --start-mib N        held at once, before the growth (default 0)
    --max-mib N          where the growth ends (default: never)
    --burst              grow as fast as memory can be touched, instead of at a rate
    --threads N          share the growth among N threads (default 1)
    --hold-ms N          free everything N ms after --max-mib was reached, then idle (default: keep it)
    --sigterm-ms N       how long the SIGTERM handler works before it exits 0 (default 500)
    --ignore-sigterm     go on as if there was no SIGTERM
    --leak-after-sigterm keep growing while the handler works
    --mark PATH          the handler adds `sigterm received MS` and `sigterm handled MS` to PATH
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
        "page-cache" | "tmpfs-fill" => {
            let (mut file, mut mib, mut rate) = (None, 16, None);
            each(&mut args, |option, args| match option {
                "file" => args.value().map(|v| file = Some(v.into())),
                "mib" => number(args).map(|n| mib = n),
                "rate-mib-s" if name == "tmpfs-fill" => number(args).map(|n| rate = Some(n)),
                other => Err(unknown(other)),
            })?;
            let file = file.ok_or("--file is needed")?;
            if name == "page-cache" {
                quiet::page_cache(file, mib)
            } else {
                quiet::tmpfs_fill(file, mib, rate)
            }
        }
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
            let (mut code, mut after_ms) = (0, 0);
            each(&mut args, |option, args| match option {
                "code" => number(args).map(|n| code = n),
                "after-ms" => number(args).map(|n| after_ms = n),
                other => Err(unknown(other)),
            })?;
            quiet::exit(code, after_ms)
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
