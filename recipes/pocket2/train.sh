#!/usr/bin/env bash
# Every stage of the recipe in order, with the stages that do not need each other side by side: train.sh RUN ASSETS
# The minutes of each stage are for one large accelerator; MINUTES_* in the environment change them.
# Stop it whenever you like: the same command resumes, and a stage that is complete is not repeated.
set -uo pipefail
cd "$(dirname "$0")"
run=$1 assets=$2
mkdir -p "$run" "$assets"
more=${MORE-}

stage() { # name of the log and of the mark that it is complete, then the command
  local name=$1
  shift
  [ -e "$run/$name.done" ] && return 0
  if python "$@" >>"$run/$name.log" 2>&1; then touch "$run/$name.done"; else echo "stage $name failed: see $run/$name.log"; fi
}

python -c "from pathlib import Path; from scenes import Painter; Painter('cpu', Path('$run'))"
stage autoencoder autoencoder.py --folder "$run" --minutes "${MINUTES_AUTOENCODER:-3}" $more &
autoencoder=$!
stage clip clip.py --folder "$run" --minutes "${MINUTES_CLIP:-3.5}" --out "$assets" ${MORE_CLIP-} &
clip=$!
stage detector detector.py --folder "$run" --minutes "${MINUTES_DETECTOR:-4}" --out "$assets/detector" ${MORE_DETECTOR-} &
wait $autoencoder
stage latents latents.py --folder "$run" --count "${POOL:-600000}"
wait $clip
stage preference preference.py --folder "$run" --minutes "${MINUTES_PREFERENCE:-3}" --out "$assets/preference" ${MORE_PREFERENCE-} &
stage transformer transformer.py --folder "$run" --minutes "${MINUTES_TRANSFORMER:-8}" $more
stage pocket export.py --folder "$run" --out "$assets/pocket"
stage turbo turbo.py flux --folder "$run" --minutes "${MINUTES_TURBO:-2.5}" --teach-seconds "${TEACH:-60}" $more &&
  stage pocket-turbo export.py --folder "$run" --weights turbo --out "$assets/pocket-turbo" &
turbo=$!
stage unet unet.py --folder "$run" --minutes "${MINUTES_UNET:-6}" $more
stage pocket-unet export.py --folder "$run" --weights unet --out "$assets/pocket-unet"
wait $turbo
stage unet_turbo turbo.py unet --folder "$run" --minutes "${MINUTES_TURBO:-2.5}" --teach-seconds "${TEACH:-60}" $more
stage pocket-unet-turbo export.py --folder "$run" --weights unet_turbo --out "$assets/pocket-unet-turbo"
wait
