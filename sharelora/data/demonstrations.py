"""Worked examples that stand before a question in a few-shot prompt, written for this project."""

from __future__ import annotations

# (question, worked answer). Short on purpose: all eight together leave room for a question within 512 tokens.
GSM8K = (
    (
        "A bakery sells 14 loaves each hour. It is open for 6 hours and starts the day with 100 loaves. "
        "How many loaves are left at closing time?",
        "In 6 hours it sells 14 * 6 = 84 loaves. So 100 - 84 = 16 loaves are left. The final answer is 16",
    ),
    (
        "Mira has 3 boxes of 12 pencils and gives 5 pencils away. How many pencils does she keep?",
        "She has 3 * 12 = 36 pencils. After giving 5 away, 36 - 5 = 31 remain. The final answer is 31",
    ),
    (
        "A ticket costs $8 and a child pays half. What do 2 adults and 3 children pay?",
        "A child pays 8 / 2 = 4 dollars. Adults: 2 * 8 = 16. Children: 3 * 4 = 12. "
        "Together 16 + 12 = 28. The final answer is 28",
    ),
    (
        "A tank of 90 liters is one third full. How many liters are missing?",
        "It holds 90 / 3 = 30 liters. Missing are 90 - 30 = 60. The final answer is 60",
    ),
    (
        "Omar runs 4 km on each weekday and 9 km on Saturday. How far does he run in 2 weeks?",
        "On weekdays he runs 5 * 4 = 20 km a week. With Saturday that is 20 + 9 = 29 km. "
        "In 2 weeks, 29 * 2 = 58 km. The final answer is 58",
    ),
    (
        "Lea is 7 years older than Tom. Tom will be 20 in 5 years. How old is Lea now?",
        "Tom is now 20 - 5 = 15. Lea is 15 + 7 = 22. The final answer is 22",
    ),
    (
        "A shirt of $40 is sold at 25% off. What does it cost?",
        "The discount is 40 * 25 / 100 = 10 dollars. It costs 40 - 10 = 30. The final answer is 30",
    ),
    (
        "Five friends share 48 cards equally and put the rest aside. How many are put aside?",
        "Each gets 48 // 5 = 9 cards, which uses 5 * 9 = 45. Aside are 48 - 45 = 3. The final answer is 3",
    ),
)
