# Where the results of a script lie, so that an evaluation finds what its training script wrote. Sourced, never run.
# Reads: root, tiny, share.   Sets: variant.   Defines: result_folder NAME.
case $share in
  none) variant=lora ;;
  *) variant=share ;;
esac

# runs/<share|lora>/NAME; a tiny run lies beside the real one, never in its place.
result_folder() {
  echo "$root/runs/$variant/$1${tiny:+_tiny}"
}
