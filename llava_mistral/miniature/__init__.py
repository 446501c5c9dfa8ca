"""DigitsQA and its tiny tower and text models: the sample data of the miniature study."""
